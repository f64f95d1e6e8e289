import { Configuration, PlaidApi } from "plaid";

export function client(url, { timeoutMs }) {
  const headers = { "PLAID-CLIENT-ID": "audit", "PLAID-SECRET": "audit" };
  return new PlaidApi(new Configuration({ basePath: url, baseOptions: { headers, timeout: timeoutMs } }));
}

export async function create(client, marker) {
  await client.itemPublicTokenExchange({ public_token: marker });
}
