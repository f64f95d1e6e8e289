import { Resend } from "resend";

export function client(url) {
  return new Resend("re_audit", { baseUrl: url });
}

export async function create(client, marker, key) {
  const email = { from: "a@example.com", to: "b@example.com", subject: marker, text: "audit" };
  const { error } = await client.emails.send(email, key ? { idempotencyKey: key } : {});
  // Failures are returned, not thrown.
  if (error) throw error;
}
