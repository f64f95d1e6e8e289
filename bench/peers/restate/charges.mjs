// A charge as a Restate service. It keeps the ledger of its effects, which `serve` puts at the port that is asked for it.
import * as http2 from "node:http2";
import * as http from "node:http";
import * as restate from "@restatedev/restate-sdk";

// The SDK wants it; Node 20 has it not.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
};

const effects = new Map();
let count = 0;

const charges = restate.service({
  name: "charges",
  handlers: {
    create: async (ctx) => {
      const key = ctx.request().headers.get("x-charge-key") ?? "none";
      count += 1;
      effects.set(key, (effects.get(key) ?? 0) + 1);
      const number = count;
      const pause = Number(ctx.request().headers.get("x-pause-ms") ?? 0);
      if (pause > 0) await new Promise((done) => setTimeout(done, pause));
      const head = JSON.stringify({ key, number, filling: "" });
      return { key, number, filling: "x".repeat(1024 - head.length) };
    },
  },
});

http
  .createServer((_, answer) => {
    const doubled = [...effects.values()].filter((times) => times > 1).length;
    answer.end(JSON.stringify({ effects: count, doubled }));
  })
  .listen(Number(process.env.LEDGER_PORT), "127.0.0.1");
http2.createServer(restate.createEndpointHandler({ services: [charges] })).listen(Number(process.env.SERVICE_PORT), "127.0.0.1");
