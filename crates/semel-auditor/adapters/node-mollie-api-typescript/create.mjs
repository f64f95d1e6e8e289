import { Client } from "mollie-api-typescript";

export function client(url, { timeoutMs, maxRetries }) {
  const retryConfig = maxRetries === 0 ? { strategy: "none" } : undefined;
  return new Client({ security: { apiKey: "test_audit" }, serverURL: url, timeoutMs, retryConfig });
}

export async function create(client, marker, key) {
  await client.customers.create({ idempotencyKey: key, entityCustomer: { name: marker } });
}
