// A charge in a Node program around @node-idempotency/core. It is the upstream as well and keeps the ledger of its effects.
import * as http from "node:http";
import { json } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import { Idempotency, IdempotencyError } from "@node-idempotency/core";
import { RedisStorageAdapter } from "@node-idempotency/storage-adapter-redis";

const storage = new RedisStorageAdapter({ url: process.env.STORE_URL });
await storage.connect();
const idempotency = new Idempotency(storage);
const effects = new Map();
let count = 0;

async function charge(headers) {
  const key = headers["idempotency-key"] ?? "none";
  effects.set(key, (effects.get(key) ?? 0) + 1);
  count += 1;
  const number = count;
  if (headers["x-pause-ms"]) await pause(Number(headers["x-pause-ms"]));
  const head = JSON.stringify({ key, number, filling: "" });
  return { key, number, filling: "x".repeat(1024 - head.length) };
}

async function once(request) {
  const { method, headers, url: path } = request;
  const asked = { method, headers, path, body: await json(request) };
  try {
    const stored = await idempotency.onRequest(asked);
    if (stored) return [stored.additional.status, stored.body];
  } catch (error) {
    if (error instanceof IdempotencyError) return [409, { error: error.message }];
    throw error;
  }
  const body = await charge(headers);
  await idempotency.onResponse(asked, { body, additional: { status: 201 } });
  return [201, body];
}

function ledger() {
  return [200, { effects: count, doubled: [...effects.values()].filter((times) => times > 1).length }];
}

http
  .createServer(async (request, answer) => {
    const [status, body] = request.url === "/ledger" ? ledger() : await once(request);
    answer.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  })
  .listen(Number(process.env.PORT), "127.0.0.1");
