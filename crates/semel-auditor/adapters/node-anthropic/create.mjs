import Sdk from "@anthropic-ai/sdk";

export function client(url, { timeoutMs, maxRetries }) {
  return new Sdk({ apiKey: "audit", baseURL: url, timeout: timeoutMs, maxRetries });
}

export async function create(client, marker, key) {
  await client.messages.create({ model: "audit", max_tokens: 1, messages: [{ role: "user", content: marker }] }, key ? { headers: { "Idempotency-Key": key } } : {});
}
