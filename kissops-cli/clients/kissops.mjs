/**
 * A bot's line to kissopsd, in one file: copy it beside your bot. Node 18 or later, nothing to install.
 *
 *     import { Client } from "./kissops.mjs";
 *
 *     const ops = new Client();
 *     let token = await ops.token("twitch", "el_serda");   // live, never the refresh token
 *     connect(token.accessToken);
 *     await ops.ready("in 42 channels");                    // for `ready = { notify = true }`
 *     setInterval(() => ops.heartbeat(), 10_000);           // better: from where the work is done
 *     // when an API has answered 401:
 *     token = await ops.invalid(token);                     // the one to go on with
 *     process.once("SIGTERM", () => ops.stopping());
 *
 * `token()` may be called as often as you like: it answers from memory, and what it answers is replaced in the background as
 * soon as there is a new token. `waitNext(token)` waits for that. Nothing of this keeps a process alive that has nothing else
 * to do, except a `waitNext` that somebody awaits.
 *
 * Without a supervisor (from a shell, in tests) `ready`, `status`, `heartbeat`, `stopping` and `pushMetrics` do nothing and
 * give false, so the same bot runs there; `token` throws an error with the code "not_supervised".
 *
 * @module
 */

import http from "node:http";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

const SILENCE_MS = 40_000; // a stream of which nothing comes for so long is dead: there is a heartbeat every 15 seconds
const POLL_SECONDS = 30; // from here on: for a kissopsd without streams
const POLLS = 8; // at once: an instance has so many connections, and others are needed, too
const SHORT_POLL_SECONDS = 5; // where more accounts than that take turns
const ANSWER_MS = 45_000; // a token that is refreshed first takes as long as its provider
const LARGEST_ANSWER = 1 << 20;
const INSPECT = Symbol.for("nodejs.util.inspect.custom");

/** What went wrong. `code` is a stable word: not_supervised, needs_reauth, no_such_token, unavailable, timeout, … */
export class KissopsError extends Error {
  /**
   * @param {string} message
   * @param {string} code
   * @param {boolean} [transient] trying again later may work
   */
  constructor(message, code, transient = false) {
    super(message);
    this.name = "KissopsError";
    /** @type {string} */
    this.code = code;
    /** @type {boolean} */
    this.transient = transient;
  }
}

/** An access token. It is not shown by `console.log` or `JSON.stringify`; take `accessToken` where it is sent. */
export class Token {
  #access;

  /**
   * @param {string} provider
   * @param {string} account
   * @param {string} access
   * @param {number} generation
   * @param {Date | null} expiresAt
   */
  constructor(provider, account, access, generation, expiresAt) {
    this.provider = provider;
    this.account = account;
    this.generation = generation;
    /** Null if the provider has not said. */
    this.expiresAt = expiresAt;
    this.#access = access;
  }

  /** @returns {string} */
  get accessToken() {
    return this.#access;
  }

  /** @returns {boolean} */
  get expired() {
    return this.expiresAt !== null && this.expiresAt.getTime() <= Date.now();
  }

  toString() {
    return `<Token ${this.provider}/${this.account} generation ${this.generation}>`;
  }

  toJSON() {
    return this.toString();
  }

  [INSPECT]() {
    return this.toString();
  }
}

/** The line of this process; make one and keep it. */
export class Client {
  #socket;
  #patience;
  /** @type {Map<string, Watch>} */
  #watches = new Map();
  /** @type {Map<string, Metric>} */
  #metrics = new Map();
  #hasStreams = true; // until kissopsd says otherwise
  #isListening = false;
  #ended = new AbortController();
  #polls = 0;
  /** @type {(() => void)[]} */
  #turns = [];

  /**
   * @param {{ socketPath?: string, patienceMs?: number }} [options] `patienceMs`: how long a call goes on trying while kissopsd
   *   is away, being restarted for example.
   */
  constructor({ socketPath = process.env.KISSOPS_SOCKET ?? "", patienceMs = 10_000 } = {}) {
    this.#socket = socketPath;
    this.#patience = patienceMs;
    this.instance = process.env.KISSOPS_INSTANCE ?? "";
  }

  /** @returns {boolean} */
  get supervised() {
    return this.#socket !== "";
  }

  // The life of the bot. None of these throws because nobody listens: a bot works on without its supervisor.

  /**
   * The bot may take work now.
   * @param {string} [status]
   * @returns {Promise<boolean>} it was heard
   */
  ready(status) {
    return this.#tell("/v1/ready", status === undefined ? {} : { status: oneLine(status) });
  }

  /**
   * What the bot is doing, for people: `kissops status` shows it.
   * @param {string} text
   * @returns {Promise<boolean>}
   */
  status(text) {
    return this.#tell("/v1/status", { status: oneLine(text) });
  }

  /**
   * The bot is not stuck. Call it from where the work is done.
   * @param {boolean} [ok]
   * @returns {Promise<boolean>}
   */
  heartbeat(ok = true) {
    return this.#tell("/v1/heartbeat", { ok: Boolean(ok) });
  }

  /**
   * The bot has begun to shut down.
   * @returns {Promise<boolean>}
   */
  stopping() {
    return this.#tell("/v1/stopping", {});
  }

  /**
   * Asks to be stopped and started again, in the supervisor's own time.
   * @param {string} reason
   * @returns {Promise<void>}
   */
  async requestRestart(reason) {
    await this.call("POST", "/v1/restart", { reason: String(reason) });
  }

  // Tokens.

  /**
   * The access token to use now.
   * @param {string} provider
   * @param {string} account
   * @returns {Promise<Token>}
   */
  async token(provider, account) {
    return this.#watch(provider, account).token();
  }

  /**
   * Waits for the token that follows `token`.
   * @param {Token} token
   * @param {{ timeoutMs?: number, signal?: AbortSignal }} [options]
   * @returns {Promise<Token>}
   */
  async waitNext(token, options = {}) {
    return this.#watch(token.provider, token.account).waitNext(token.generation, options);
  }

  /**
   * An API has answered 401 to `token`. Gives the token to go on with.
   * @param {Token} token
   * @returns {Promise<Token>}
   */
  async invalid(token) {
    return this.#watch(token.provider, token.account).invalid(token.generation);
  }

  // Metrics.

  /**
   * A figure that only grows, as `name_total`.
   * @param {string} name
   * @param {string} [help]
   * @returns {Counter}
   */
  counter(name, help = "") {
    return /** @type {Counter} */ (this.#metric(Counter, name, help));
  }

  /**
   * A figure that goes up and down.
   * @param {string} name
   * @param {string} [help]
   * @returns {Gauge}
   */
  gauge(name, help = "") {
    return /** @type {Gauge} */ (this.#metric(Gauge, name, help));
  }

  /**
   * Hands all counters and gauges to kissopsd: every 15 seconds or so is often enough.
   * @returns {Promise<boolean>}
   */
  async pushMetrics() {
    if (!this.supervised) return false;
    const text = [...this.#metrics.values()].map((metric) => metric.text()).join("") + "# EOF\n";
    await this.call("POST", "/v1/metrics", text);
    return true;
  }

  /** Ends what goes on in the background. */
  close() {
    for (const watch of this.#watches.values()) watch.close();
    this.#watches.clear();
    this.#ended.abort();
    this.#ended = new AbortController();
  }

  // How it is done.

  #metric(kind, name, help) {
    if (!/^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(name)) throw new TypeError(`"${name}" is no name for a metric`);
    let metric = this.#metrics.get(name);
    if (!metric) this.#metrics.set(name, (metric = new kind(name, help)));
    if (!(metric instanceof kind)) throw new TypeError(`${name} is of another kind already`);
    return metric;
  }

  #watch(provider, account) {
    if (!this.supervised) {
      throw new KissopsError(
        "there is no KISSOPS_SOCKET: tokens are given to bots that kissopsd has started (kissops up)",
        "not_supervised",
      );
    }
    const key = JSON.stringify([provider, account]);
    let watch = this.#watches.get(key);
    if (!watch) this.#watches.set(key, (watch = new Watch(this, provider, account)));
    return watch;
  }

  async #tell(path, body) {
    if (!this.supervised) return false;
    try {
      await this.once("POST", path, body, 2_000);
      return true;
    } catch {
      return false;
    }
  }

  /**
   * Asks, and asks again while kissopsd is away. Every request may be sent twice: none of them adds up.
   * @package
   */
  async call(method, path, body) {
    if (!this.supervised) {
      throw new KissopsError("there is no KISSOPS_SOCKET: the bot was not started by kissopsd", "not_supervised");
    }
    const end = performance.now() + this.#patience;
    for (let wait = 50; ; wait *= 2) {
      try {
        return await this.once(method, path, body, ANSWER_MS);
      } catch (err) {
        const left = end - performance.now();
        if (!err.transient || left <= 0) throw err;
        await sleep(Math.min(wait, left));
      }
    }
  }

  /**
   * Has all tokens come over one stream; false where kissopsd has none.
   * @package
   */
  follow() {
    if (this.#hasStreams && !this.#isListening) this.#listen(this.#ended.signal);
    return this.#hasStreams;
  }

  async #listen(signal) {
    this.#isListening = true;
    for (let wait = 50; !signal.aborted; ) {
      const begun = performance.now();
      let fresh = false;
      try {
        await this.#lines("/v1/tokens/stream", signal, (line) => {
          fresh = (this.#watches.get(JSON.stringify([line.provider, line.account]))?.hand(line) ?? false) || fresh;
        });
      } catch (err) {
        if (kindOf(err) === "not_found") {
          this.#hasStreams = false;
          for (const watch of this.#watches.values()) watch.poll();
          break;
        }
        if (kindOf(err) === "refused") {
          for (const watch of this.#watches.values()) watch.refuse(err);
          break;
        }
      }
      // Whoever ends it at once without anything new is not asked a thousand times a second.
      wait = fresh || performance.now() - begun > 1000 ? 50 : Math.min(wait * 2, 10_000);
      await sleep(wait, undefined, { ref: false, signal }).catch(() => {});
    }
    this.#isListening = false;
    // Somebody has come between the end and its notice.
    if (signal.aborted && this.#watches.size > 0) this.follow();
  }

  /** Reads an answer line by line; it keeps no process alive. */
  #lines(path, signal, take) {
    return new Promise((resolve, reject) => {
      const request = http.request({ socketPath: this.#address, path, signal, agent: false });
      const broken = (err) => reject(new KissopsError(
        `the stream of tokens broke off: ${err.code ?? err.name}`, "unavailable", true,
      ));
      const end = (code) => request.destroy(Object.assign(new Error(), { code }));
      request.setTimeout(SILENCE_MS, () => end("ETIMEDOUT"));
      request.on("socket", (socket) => socket.unref());
      request.on("error", broken);
      request.on("response", (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (piece) => {
          text += piece;
          if (text.length > LARGEST_ANSWER) return end("too much");
          if (answer.statusCode !== 200) return undefined;
          const lines = text.split("\n");
          text = lines.pop() ?? "";
          try {
            for (const line of lines) take(parse(line));
          } catch (err) {
            end(err.code);
          }
          return undefined;
        });
        answer.on("error", broken);
        answer.on("end", () => {
          if (answer.statusCode === 200) resolve(undefined);
          else reject(problem(answer.statusCode ?? 0, parse(text), path));
        });
      });
      request.end();
    });
  }

  get #address() {
    // An abstract name is written with an @, as in NOTIFY_SOCKET.
    return this.#socket.startsWith("@") ? `\0${this.#socket.slice(1)}` : this.#socket;
  }

  /**
   * Asks for the next token, when it is its turn.
   * @package
   */
  async poll(path, after, signal) {
    if (this.#polls < POLLS) this.#polls += 1;
    else await new Promise((resolve) => this.#turns.push(() => resolve(undefined)));
    try {
      const seconds = this.#watches.size <= POLLS ? POLL_SECONDS : SHORT_POLL_SECONDS;
      const begun = performance.now();
      const answer = await this.once("GET", `${path}?after=${after}&wait=${seconds}s`, undefined, (seconds + 10) * 1000, {
        signal,
        background: true,
      });
      return { answer, tookMs: performance.now() - begun };
    } finally {
      const next = this.#turns.shift();
      if (next) next();
      else this.#polls -= 1;
    }
  }

  /**
   * One request on a connection of its own. `background`: it keeps no process alive.
   * @package
   */
  once(method, path, body, timeoutMs, { signal, background = false } = {}) {
    const socketPath = this.#address;
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    const headers = text === undefined ? {} : {
      "content-type": typeof body === "string"
        ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
        : "application/json",
      "content-length": Buffer.byteLength(text),
    };
    return new Promise((resolve, reject) => {
      // Node 18 and 20 cannot connect to abstract names: nodejs/node#49656.
      const hint = socketPath.startsWith("\0") ? ` (an abstract socket, and this is Node ${process.version})` : "";
      const away = (why) => reject(new KissopsError(
        `kissopsd does not answer at ${this.#socket}${hint}: ${why}`, "unavailable", true,
      ));
      const request = http.request({ socketPath, method, path, headers, signal, agent: false });
      const clock = setTimeout(() => request.destroy(Object.assign(new Error(), { code: "ETIMEDOUT" })), timeoutMs);
      if (background) {
        clock.unref();
        request.on("socket", (socket) => socket.unref());
      }
      request.on("close", () => clearTimeout(clock));
      // Only the code: what an HTTP error quotes is not ours to show.
      request.on("error", (err) => away(err.code ?? err.name));
      request.on("response", (answer) => {
        const pieces = [];
        let size = 0;
        answer.on("data", (piece) => {
          size += piece.length;
          if (size > LARGEST_ANSWER) request.destroy(Object.assign(new Error(), { code: "too much" }));
          else pieces.push(piece);
        });
        answer.on("error", (err) => away(err.code ?? err.name));
        answer.on("end", () => {
          const status = answer.statusCode ?? 0;
          const json = parse(Buffer.concat(pieces).toString("utf8"));
          if (status === 200) resolve(json);
          else if (status > 200 && status < 300) resolve(undefined);
          else reject(problem(status, json, path));
        });
      });
      request.end(text);
    });
  }
}

/** One grant: its current token. The next comes over the client's stream, or a loop asks for it. */
class Watch {
  #client;
  #provider;
  #account;
  #path;
  /** @type {Token | undefined} */
  #current;
  #running = false;
  /** After which generation somebody waits. @type {number | undefined} */
  #wanted;
  #ended = new AbortController();
  /** @type {Set<{ after: number, resolve: (token: Token) => void, reject: (err: Error) => void }>} */
  #waiting = new Set();
  /** Keeps the process while somebody waits. */
  #anchor;

  constructor(client, provider, account) {
    this.#client = client;
    this.#provider = provider;
    this.#account = account;
    this.#path = `/v1/token/${encodeURIComponent(provider)}/${encodeURIComponent(account)}`;
  }

  async token() {
    if (this.#current && !this.#current.expired) return this.#current;
    return this.#take(await this.#client.call("GET", this.#path));
  }

  async invalid(generation) {
    const current = this.#current;
    if (current && current.generation > generation && !current.expired) return current;
    const answer = await this.#client.call("POST", `${this.#path}/invalid`, { generation });
    return this.#take(answer ?? (await this.#client.call("GET", this.#path)));
  }

  waitNext(generation, { timeoutMs, signal }) {
    return new Promise((resolve, reject) => {
      if (this.#current && this.#current.generation > generation) return resolve(this.#current);
      const gone = () => over(() => reject(signal.reason));
      const waiter = {
        after: generation,
        resolve: (token) => over(() => resolve(token)),
        reject: (err) => over(() => reject(err)),
      };
      const clock = timeoutMs === undefined ? undefined : setTimeout(() => {
        const what = `${this.#provider}/${this.#account}`;
        waiter.reject(new KissopsError(`no new token of ${what} in ${timeoutMs} ms`, "timeout", true));
      }, timeoutMs);
      const over = (settle) => {
        clearTimeout(clock);
        signal?.removeEventListener("abort", gone);
        this.#waiting.delete(waiter);
        if (this.#waiting.size === 0) clearInterval(this.#anchor);
        settle();
      };
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", gone);
      if (this.#waiting.size === 0) this.#anchor = setInterval(() => {}, 1 << 30);
      this.#waiting.add(waiter);
      this.#start(generation);
    });
  }

  close() {
    this.#ended.abort();
    this.refuse(new KissopsError("the client was closed", "closed"));
  }

  /** Takes a line of the stream; whether it is new. */
  hand(line) {
    const before = this.#current?.generation ?? 0;
    return this.#take(line).generation > before;
  }

  /** There is no stream: the next token is asked for. */
  poll() {
    if (this.#wanted !== undefined) this.#start(this.#wanted);
  }

  refuse(err) {
    for (const waiter of [...this.#waiting]) waiter.reject(err);
  }

  #take(answer) {
    const token = readToken(this.#provider, this.#account, answer);
    if (!this.#current || this.#current.generation <= token.generation) this.#current = token;
    const current = this.#current;
    for (const waiter of [...this.#waiting]) {
      if (waiter.after < current.generation) waiter.resolve(current);
    }
    this.#start(current.generation);
    return current;
  }

  #start(generation) {
    this.#wanted = generation;
    if (this.#ended.signal.aborted || this.#client.follow() || this.#running) return;
    this.#running = true;
    this.#run(generation).finally(() => {
      this.#running = false;
    });
  }

  async #run(after) {
    const { signal } = this.#ended;
    let wait = 50;
    while (!signal.aborted) {
      const generation = Math.max(after, this.#current?.generation ?? 0);
      try {
        const { answer, tookMs } = await this.#client.poll(this.#path, generation, signal);
        if (answer !== undefined) this.#take(answer);
        // Whoever answers at once that there is nothing new is not asked a thousand times a second.
        const fresh = (this.#current?.generation ?? 0) > generation;
        wait = fresh || tookMs > 1000 ? 50 : Math.min(wait * 2, 10_000);
        if (fresh) continue;
      } catch (err) {
        if (["not_found", "refused"].includes(kindOf(err))) return this.refuse(err);
        wait = Math.min(wait * 2, 10_000);
      }
      await sleep(wait, undefined, { ref: false, signal }).catch(() => {});
    }
  }
}

class Metric {
  #help;
  #values = new Map();

  constructor(name, help, kind, suffix) {
    this.name = suffix && name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
    this.kind = kind;
    this.suffix = suffix;
    this.#help = help;
  }

  /** @protected */
  change(labels, change) {
    const pairs = Object.entries(labels).map(([key, value]) => {
      if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(key)) throw new TypeError(`"${key}" is no name for a label`);
      return `${key}="${escaped(value)}"`;
    });
    const key = pairs.sort().join(",");
    this.#values.set(key, change(this.#values.get(key) ?? 0));
  }

  /** As OpenMetrics has it. */
  text() {
    const lines = [`# TYPE ${this.name} ${this.kind}`];
    if (this.#help) lines.push(`# HELP ${this.name} ${escaped(this.#help)}`);
    for (const [labels, value] of [...this.#values].sort(([one], [other]) => (one < other ? -1 : 1))) {
      lines.push(`${this.name}${this.suffix}${labels ? `{${labels}}` : ""} ${number(value)}`);
    }
    return `${lines.join("\n")}\n`;
  }
}

/** Only grows. */
export class Counter extends Metric {
  constructor(name, help) {
    super(name, help, "counter", "_total");
  }

  /**
   * @param {number} [by]
   * @param {Record<string, string>} [labels]
   */
  inc(by = 1, labels = {}) {
    if (!(by >= 0)) throw new RangeError("a counter only grows");
    this.change(labels, (value) => value + by);
  }
}

/** Goes up and down. */
export class Gauge extends Metric {
  constructor(name, help) {
    super(name, help, "gauge", "");
  }

  /**
   * @param {number} value
   * @param {Record<string, string>} [labels]
   */
  set(value, labels = {}) {
    this.change(labels, () => value);
  }

  /**
   * @param {number} [by]
   * @param {Record<string, string>} [labels]
   */
  inc(by = 1, labels = {}) {
    this.change(labels, (value) => value + by);
  }
}

const oneLine = (text) => String(text).replace(/[\r\n]/g, " ");
const escaped = (text) => String(text).replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/"/g, '\\"');

function number(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  return String(value);
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

function readToken(provider, account, answer) {
  const { access_token: access, generation, expires_at: expires } = answer;
  const expiresAt = expires === undefined || expires === null ? null : new Date(expires);
  const good = typeof access === "string" && access !== "" && Number.isInteger(generation);
  if (!good || (expiresAt !== null && Number.isNaN(expiresAt.getTime()))) {
    throw new KissopsError("kissopsd answered something that is no token", "protocol", true);
  }
  return new Token(provider, account, access, generation, expiresAt);
}

function problem(status, json, path) {
  let detail = String(json.detail ?? json.title ?? `kissopsd answered ${status} to ${path.split("?")[0]}`);
  if (json.help) detail += `: ${json.help}`;
  const code = typeof json.code === "string" ? json.code : "";
  const transient = status === 408 || status === 429 || status >= 500;
  // 409: an operator has to decide.
  const usual = status === 404 ? "not_found" : transient || status === 409 ? "unavailable" : "refused";
  return Object.assign(new KissopsError(detail, code || usual, transient), { status });
}

/** Whether asking again makes sense, as one word. */
function kindOf(err) {
  if (err.transient || !err.status || err.status === 409) return "unavailable";
  return err.status === 404 ? "not_found" : "refused";
}
