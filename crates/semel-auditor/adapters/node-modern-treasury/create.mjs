import Sdk from "modern-treasury";

export function client(url, { timeoutMs, maxRetries }) {
  return new Sdk({ apiKey: "audit", organizationID: "audit", baseURL: url, timeout: timeoutMs, maxRetries });
}

export async function create(client, marker, key) {
  await client.counterparties.create({ name: marker }, key ? { idempotencyKey: key } : {});
}
