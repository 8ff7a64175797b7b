// @twurple/auth against the mock provider: node twurple.mjs URL ACCOUNTS.json CALLERS, after `npm install @twurple/auth`.
// The library knows one provider, by its address: what goes there goes to the mock instead. It puts client secret and
// refresh token into the URL, which the mock refuses: they are moved to the body.
import { readFileSync } from "node:fs";
import { RefreshingAuthProvider } from "@twurple/auth";

const [url, file, callers] = process.argv.slice(2);
const real = globalThis.fetch;
globalThis.fetch = (to, options) => {
  const [path, query] = String(to).replace("https://id.twitch.tv", url).split("?");
  if (options?.method !== "POST") return real(String(to).replace("https://id.twitch.tv", url), options);
  const headers = { "content-type": "application/x-www-form-urlencoded" };
  return real(path, { method: "POST", headers, body: query });
};

const accounts = JSON.parse(readFileSync(file, "utf8"));
const provider = new RefreshingAuthProvider({ clientId: "mock-client", clientSecret: "mock-client-secret" });
accounts.forEach((account, at) => provider.addUser(String(at + 1), {
  accessToken: account.access_token, refreshToken: account.refresh_token,
  scope: [], expiresIn: 1, obtainmentTimestamp: 0,
}));

// Everybody who needs the token asks, and asks again a second later where there was none.
const ask = async at => {
  for (let round = 0; round < 60; round += 1) {
    const asked = Array.from({ length: Number(callers) }, () => provider.getAccessTokenForUser(String(at + 1)));
    const good = (await Promise.allSettled(asked)).filter(one => one.status === "fulfilled" && one.value?.accessToken);
    if (good.length === asked.length) return 1;
    await new Promise(done => setTimeout(done, 1000));
  }
  return 0;
};
const kept = (await Promise.all(accounts.map((_, at) => ask(at)))).reduce((sum, one) => sum + one, 0);
console.log(JSON.stringify({ kept }));
process.exit(0);
