// Does what it is told on stdin with the client: a JSON list per line, answered by a JSON object per line.

import readline from "node:readline";
import util from "node:util";

import { Client, KissopsError } from "../../clients/kissops.mjs";

const ops = new Client({ patienceMs: Number(process.env.PATIENCE ?? "20") * 1000 });
let last;

function told(token) {
  last = token;
  const shown = [String(token), `${token}`, util.inspect(token, { showHidden: true, depth: 9 }), JSON.stringify({ token })];
  return {
    access: token.accessToken,
    generation: token.generation,
    expires: token.expiresAt?.toISOString() ?? null,
    shown,
  };
}

async function run(verb, ...args) {
  switch (verb) {
    case "token":
    case "token_async":
      return told(await ops.token(...args));
    case "next":
    case "next_async":
      return told(await ops.waitNext(last, args.length ? { timeoutMs: args[0] * 1000 } : {}));
    case "invalid":
    case "invalid_async":
      return told(await ops.invalid(last));
    case "metrics": {
      const served = ops.counter("served", 'lines, "all"');
      served.inc();
      served.inc(2, { channel: 'a"b\\c\nd' });
      ops.gauge("open_channels").set(2.5);
      return ops.pushMetrics();
    }
    case "wrong_metric":
      try {
        return ops.gauge("not a name");
      } catch (err) {
        return String(err);
      }
    case "restart":
      return (await ops.requestRestart(...args)) ?? null;
    case "supervised":
      return ops.supervised;
    default:
      return ops[verb](...args);
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { ok: await run(...JSON.parse(line)) };
  } catch (err) {
    answer = { error: err instanceof KissopsError ? err.code : "other", text: String(err.message) };
  }
  console.log(JSON.stringify(answer));
}
