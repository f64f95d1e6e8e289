// Drives one Node SDK for `semel audit sdk`: scenarios in on stdin, what each call said out on stdout.
//
// Started as `node driver.mjs CREATE READY` from the folder that its packages are installed in: an adapter's
// create.mjs, and the first line to print once the SDK is loaded. Knows no SDK and judges nothing; what was sent is
// seen by the server alone. docs/guides/audit-adapters.md describes both sides.

import { writeSync } from "node:fs";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [create, ready] = process.argv.slice(2);

// What an SDK prints must not end up among the answers.
console.log = console.info = console.debug = console.error;

// In one piece: the process may be killed at any time.
function tell(line) {
  let rest = Buffer.from(JSON.stringify(line) + "\n");
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

// The first property that is there and no function.
function first(thing, ...names) {
  for (const name of names) {
    const value = thing?.[name];
    if (value !== undefined && value !== null && typeof value !== "function") return value;
  }
  return undefined;
}

function headersOf(thing) {
  if (!thing || typeof thing !== "object") return {};
  const entries = typeof thing.entries === "function" ? [...thing.entries()] : Object.entries(thing);
  return Object.fromEntries(entries.map(([name, value]) => [String(name).toLowerCase(), String(value)]));
}

function number(value) {
  if (value === undefined || value === null || value === "") return null;
  const read = Number(value);
  return Number.isFinite(read) ? read : null;
}

// The key, where a caller who holds the error can read it: from it, or from the request it carries.
function keyOf(error) {
  const own = first(error, "idempotencyKey");
  const sent = headersOf(first(first(error, "request", "config", "rawRequest"), "headers"));
  return own ?? Object.entries(sent).find(([name]) => name.includes("idempot"))?.[1] ?? null;
}

// The generic reading of an error: names that SDKs commonly use.
function whatItSays(error) {
  const response = first(error, "response", "rawResponse");
  const received = { ...headersOf(first(response, "headers")), ...headersOf(first(error, "headers")) };
  const statuses = [first(error, "statusCode", "status", "code"), first(response, "status", "statusCode")];
  const retryable = first(error, "retryable", "isRetryable", "shouldRetry");
  return {
    status: statuses.map(number).find((status) => status >= 100 && status < 600) ?? null,
    error: `${error?.constructor?.name ?? "Error"}: ${error?.message ?? JSON.stringify(error)}`.slice(0, 300),
    key: keyOf(error),
    retryable: typeof retryable === "boolean" ? retryable : null,
    attempts: number(first(error, "attempts", "attemptCount")),
    retry_after_s: number(first(error, "retryAfter") ?? received["retry-after"]),
  };
}

// The scenarios that were given up: they make no further call.
const givenUp = new Set();

async function call(adapter, client, scenario, numberOfCall) {
  const started = performance.now();
  const said = { scenario: scenario.name, call: numberOfCall, ok: true };
  try {
    await adapter.create(client, `semel-audit-${numberOfCall}`, scenario.key ?? undefined);
  } catch (error) {
    said.ok = false;
    Object.assign(said, whatItSays(error), adapter.said?.(error));
  }
  said.took_ms = Math.round(performance.now() - started);
  tell(said);
}

async function run(adapter, scenario) {
  // `undefined` stands for the SDK's own default.
  const options = {
    timeoutMs: scenario.timeout_ms ?? undefined,
    maxRetries: scenario.max_retries ?? undefined,
    deadlineMs: scenario.deadline_ms ?? undefined,
  };
  let client;
  try {
    client = await adapter.client(scenario.url, options);
  } catch (error) {
    tell({ scenario: scenario.name, done: true, error: String(error).slice(0, 300) });
    return;
  }
  let next = 0;
  const work = async () => {
    while (next < (scenario.calls ?? 1) && !givenUp.has(scenario.name)) await call(adapter, client, scenario, next++);
  };
  await Promise.all(Array.from({ length: scenario.parallel ?? 1 }, work));
  tell({ scenario: scenario.name, done: true });
}

// An SDK's stray rejection ends no other scenario.
process.on("unhandledRejection", (error) => console.error("unhandled rejection:", error));
process.on("uncaughtException", (error) => console.error("uncaught exception:", error));

const adapter = await import(pathToFileURL(create));
tell(JSON.parse(ready));
const scenarios = createInterface({ input: process.stdin });
scenarios.on("line", (line) => {
  const asked = JSON.parse(line);
  if (asked.give_up) givenUp.add(asked.give_up);
  else run(adapter, asked);
});
scenarios.on("close", () => process.exit(0));
