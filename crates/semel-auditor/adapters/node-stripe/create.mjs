import Stripe from "stripe";

export function client(url, { timeoutMs, maxRetries }) {
  const { hostname, port, protocol } = new URL(url);
  const place = { host: hostname, port: Number(port), protocol: protocol.slice(0, -1) };
  // The constructor refuses `undefined`.
  if (timeoutMs !== undefined) place.timeout = timeoutMs;
  if (maxRetries !== undefined) place.maxNetworkRetries = maxRetries;
  return new Stripe("sk_test_audit", place);
}

export async function create(client, marker, key) {
  await client.customers.create({ name: marker }, key ? { idempotencyKey: key } : {});
}
