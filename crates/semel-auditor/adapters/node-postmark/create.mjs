import { ServerClient } from "postmark";

export function client(url, { timeoutMs }) {
  const timeout = timeoutMs === undefined ? undefined : timeoutMs / 1000;
  const { host, protocol } = new URL(url);
  return new ServerClient("audit", { requestHost: host, useHttps: protocol === "https:", timeout });
}

export async function create(client, marker) {
  await client.sendEmail({ From: "a@example.com", To: "b@example.com", Subject: marker, TextBody: "audit" });
}
