import { SquareClient } from "square";

export function client(url, { timeoutMs, maxRetries }) {
  const timeoutInSeconds = timeoutMs === undefined ? undefined : timeoutMs / 1000;
  return new SquareClient({ token: "audit", baseUrl: url, timeoutInSeconds, maxRetries });
}

export async function create(client, marker, key) {
  await client.customers.create({ givenName: marker, ...(key ? { idempotencyKey: key } : {}) });
}
