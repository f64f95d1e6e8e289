import Sdk from "openai";

export function client(url, { timeoutMs, maxRetries }) {
  return new Sdk({ apiKey: "audit", baseURL: url, timeout: timeoutMs, maxRetries });
}

export async function create(client, marker, key) {
  await client.chat.completions.create({ model: "audit", messages: [{ role: "user", content: marker }] }, key ? { headers: { "Idempotency-Key": key } } : {});
}
