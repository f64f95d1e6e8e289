// An API on Node's own HTTP server, with its 5 s of keep-alive, that charges for every request and writes each
// charge into its ledger.
//
// Usage: upstream.mjs LEDGER      prints the port it listens on

import { createHash } from "node:crypto";
import { openSync, writeSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const ledger = openSync(process.argv[2], "a");
let charges = 0;

const number = (text) => (text === undefined ? null : Number(text));

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  const key = request.headers["idempotency-key"] ?? null;
  const entry = {
    key,
    attempt: number(request.headers["idempotency-attempt"]),
    token: number(request.headers["idempotency-token"]),
    method: request.method,
    target: request.url,
    body_bytes: body.length,
    digest: createHash("sha256").update(body).digest("hex"),
  };
  charges += 1;
  const mine = charges;
  writeSync(ledger, JSON.stringify(entry) + "\n");
  const delayMs = Number(new URL(request.url, "http://upstream").searchParams.get("delay_ms") ?? 0);
  if (delayMs > 0) await sleep(delayMs);
  response.writeHead(201, { "Content-Type": "application/json", Location: `/charges/${mine}` });
  response.end(JSON.stringify({ charge: mine, key }));
});

server.keepAliveTimeout = 5_000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
