import Sdk from "@knocklabs/node";

export function client(url, { timeoutMs, maxRetries }) {
  return new Sdk({ apiKey: "audit", baseURL: url, timeout: timeoutMs, maxRetries });
}

export async function create(client, marker, key) {
  await client.workflows.trigger("audit", { recipients: ["audit"], data: { marker } }, key ? { idempotencyKey: key } : {});
}
