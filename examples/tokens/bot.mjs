// Says hello once a second, in the name of an account: through an API that wants a good token every time.
//
// A bot of your own has kissops.mjs beside it; this one takes it from where it lives in the repository.
//
// usage: bot.mjs ACCOUNT

import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, KissopsError } from "../../kissops-cli/clients/kissops.mjs";

const API = process.env.API ?? "http://127.0.0.1:7790/helix/users";
const EVERY_MS = 1000;

/** The name that the API knows the token's owner by; undefined if it does not accept the token. */
async function whoAmI(token) {
  const answer = await fetch(API, { headers: { authorization: `Bearer ${token.accessToken}` } });
  if (answer.status === 401) return undefined;
  if (!answer.ok) throw new Error(`the API answered ${answer.status}`);
  return (await answer.json()).data[0].login;
}

async function main(account) {
  const stopping = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stopping.abort());
  const ops = new Client();
  const greetings = ops.counter("greetings", "How often the bot has said hello.");
  let token = await ops.token("mock", account);
  let last;
  while (!stopping.signal.aborted) {
    try {
      // From memory, unless there is a new one: so this costs nothing, and what is used is never old.
      token = await ops.token("mock", account);
      let name = await whoAmI(token);
      if (name === undefined) {
        console.log(`generation ${token.generation} was refused`);
        token = await ops.invalid(token);
        name = await whoAmI(token);
      }
      greetings.inc();
      if (last !== token.generation) {
        console.log(`hello from ${name}, generation ${token.generation}`);
        await ops.ready(`${name}, generation ${token.generation}`);
        await ops.pushMetrics();
        last = token.generation;
      }
    } catch (err) {
      if (err instanceof KissopsError && !err.transient) throw err;
      console.log(`not now: ${err.message}`);
    }
    await sleep(EVERY_MS, undefined, { signal: stopping.signal }).catch(() => {});
  }
  await ops.stopping();
  ops.close();
  console.log("good-bye");
}

if (process.argv.length !== 3) {
  console.error("usage: bot.mjs ACCOUNT");
  process.exit(2);
}
await main(process.argv[2]);
