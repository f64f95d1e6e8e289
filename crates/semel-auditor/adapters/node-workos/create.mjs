import { WorkOS } from "@workos-inc/node";

export function client(url, { timeoutMs, maxRetries }) {
  const { hostname, port, protocol } = new URL(url);
  const place = { apiHostname: hostname, port: Number(port), https: protocol === "https:" };
  return new WorkOS("sk_test_audit", { ...place, timeout: timeoutMs, maxRetries });
}

export async function create(client, marker, key) {
  await client.organizations.createOrganization({ name: marker }, key ? { idempotencyKey: key } : {});
}
