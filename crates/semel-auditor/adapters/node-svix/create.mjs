import { Svix } from "svix";

export function client(url, { timeoutMs, maxRetries }) {
  const schedule = maxRetries === undefined ? undefined : Array.from({ length: maxRetries }, (_, n) => 50 * 2 ** n);
  return new Svix("audit", { serverUrl: url, requestTimeout: timeoutMs, retryScheduleInMs: schedule });
}

export async function create(client, marker, key) {
  await client.application.create({ name: marker }, key ? { idempotencyKey: key } : {});
}
