"""A bot's line to kissopsd, in one file: copy it beside your bot. Python 3.8 or later, nothing to install.

    import kissops

    ops = kissops.Client()
    token = ops.token("twitch", "el_serda")       # live, never the refresh token
    connect(token.access_token)
    ops.ready("in 42 channels")                    # for `ready = { notify = true }`
    while serving():
        ops.heartbeat()                            # for `live = { ... }`
        if api_said_401():
            token = ops.invalid(token)             # the one to go on with
    ops.stopping()

`token()` may be called as often as you like: it answers from memory, and a thread in the background replaces what it
answers as soon as there is a new token. `wait_next(token)` waits for that. Every method may be called from any thread;
in asyncio use `await ops.token_async(...)`, `wait_next_async` and `invalid_async`.

Without a supervisor (from a shell, in tests) `ready`, `status`, `heartbeat`, `stopping` and `push_metrics` do nothing and
return False, so the same bot runs there; `token` raises NotSupervised, which says so.
"""

import asyncio
import datetime
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.parse

__all__ = [
    "Client", "Token", "Counter", "Gauge", "KissopsError", "NotSupervised", "NeedsReauth", "NotFound", "Refused",
    "Unavailable",
]

_SILENCE_SECONDS = 40  # a stream of which nothing comes for so long is dead: there is a heartbeat every 15 seconds
_POLL_SECONDS = 30  # from here on: for a kissopsd without streams
_POLLS = 8  # at once: an instance has so many connections, and others are needed, too
_SHORT_POLL_SECONDS = 5  # where more accounts than that take turns
_ANSWER_SECONDS = 45  # a token that is refreshed first takes as long as its provider
_LARGEST_ANSWER = 1 << 20


class KissopsError(Exception):
    """What went wrong; `code` is a stable word for programs."""

    code = "error"

    def __init__(self, message, code=None, transient=False):
        super().__init__(message)
        if code is not None:
            self.code = code
        self.transient = transient  # trying again in a moment may work


class NotSupervised(KissopsError):
    """There is no KISSOPS_SOCKET: the bot was not started by kissopsd."""

    code = "not_supervised"


class NeedsReauth(KissopsError):
    """The account's owner has to authorize again: `kissops token authorize PROVIDER ACCOUNT`."""

    code = "needs_reauth"


class NotFound(KissopsError):
    """This instance may not read such an account: see `tokens` in its definition."""

    code = "not_found"


class Refused(KissopsError):
    """kissopsd does not accept the request."""

    code = "refused"


class Unavailable(KissopsError):
    """kissopsd does not answer, or has no token to give for now; `code` may say more."""

    code = "unavailable"


class Token:
    """An access token. It is not shown by `print` or in a traceback; take `access_token` where it is sent."""

    __slots__ = ("provider", "account", "access_token", "generation", "expires_at")

    def __init__(self, provider, account, access_token, generation, expires_at):
        self.provider = provider
        self.account = account
        self.access_token = access_token
        self.generation = generation
        self.expires_at = expires_at  # an aware datetime, or None if the provider has not said

    @property
    def expired(self):
        return self.expires_at is not None and self.expires_at <= datetime.datetime.now(datetime.timezone.utc)

    def __repr__(self):
        return f"<Token {self.provider}/{self.account} generation {self.generation}>"

    def __reduce__(self):
        raise TypeError("a token is not to be written down")


class Client:
    """The line of this process; make one and keep it.

    `patience`: how many seconds a call goes on trying while kissopsd is away, being restarted for example.
    """

    def __init__(self, socket_path=None, notify_socket=None, patience=10.0):
        self._socket = os.environ.get("KISSOPS_SOCKET", "") if socket_path is None else os.fspath(socket_path)
        self._notify = os.environ.get("NOTIFY_SOCKET", "") if notify_socket is None else notify_socket
        self._patience = patience
        self._lock = threading.Lock()
        self._watches = {}
        self._metrics = {}
        self._polls = threading.BoundedSemaphore(_POLLS)
        self._has_streams = True  # until kissopsd says otherwise
        self._streaming = None  # the process that has a thread for it
        self.instance = os.environ.get("KISSOPS_INSTANCE", "")

    @property
    def supervised(self):
        return bool(self._socket or self._notify)

    # The life of the bot. None of these raises because nobody listens: a bot works on without its supervisor.

    def ready(self, status=None):
        """The bot may take work now."""
        if self._notify:
            lines = ["READY=1"] if status is None else ["READY=1", f"STATUS={_one_line(status)}"]
            return self._send(lines)
        return self._tell("/v1/ready", {} if status is None else {"status": _one_line(status)})

    def status(self, text):
        """What the bot is doing, for people: `kissops status` shows it."""
        if self._notify:
            return self._send([f"STATUS={_one_line(text)}"])
        return self._tell("/v1/status", {"status": _one_line(text)})

    def heartbeat(self, ok=True):
        """The bot is not stuck. Call it from where the work is done, not from a timer of its own."""
        told = bool(ok) and self._notify != "" and "WATCHDOG_USEC" in os.environ and self._send(["WATCHDOG=1"])
        return self._tell("/v1/heartbeat", {"ok": bool(ok)}) or told

    def stopping(self):
        """The bot has begun to shut down."""
        if self._notify:
            return self._send(["STOPPING=1"])
        return self._tell("/v1/stopping", {})

    def request_restart(self, reason):
        """Asks to be stopped and started again, in the supervisor's own time."""
        self._call("POST", "/v1/restart", {"reason": str(reason)})

    # Tokens.

    def token(self, provider, account):
        """The access token to use now."""
        return self._watch(provider, account).token()

    def wait_next(self, token, timeout=None):
        """Waits for the token that follows `token`; TimeoutError after `timeout` seconds."""
        return self._watch(token.provider, token.account).wait_next(token.generation, timeout)

    def invalid(self, token):
        """An API has answered 401 to `token`. Gives the token to go on with."""
        return self._watch(token.provider, token.account).invalid(token.generation)

    async def token_async(self, provider, account):
        """As `token`, for asyncio."""
        return await _in_thread(self.token, provider, account)

    async def invalid_async(self, token):
        """As `invalid`, for asyncio."""
        return await _in_thread(self.invalid, token)

    async def wait_next_async(self, token):
        """As `wait_next`, for asyncio: holds no thread; to be cancelled or put under `asyncio.wait_for`."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        watch = self._watch(token.provider, token.account)

        def arrived(result, error):
            def settle():
                if not future.done():
                    future.set_exception(error) if error else future.set_result(result)
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:
                pass  # the loop has been closed meanwhile

        watch.listen(token.generation, arrived)
        try:
            return await future
        finally:
            watch.forget(arrived)

    # Metrics.

    def counter(self, name, help=""):
        """A figure that only grows, as `name_total`."""
        return self._metric(Counter, name, help)

    def gauge(self, name, help=""):
        """A figure that goes up and down."""
        return self._metric(Gauge, name, help)

    def push_metrics(self):
        """Hands all counters and gauges to kissopsd: every 15 seconds or so is often enough."""
        with self._lock:
            text = "".join(metric._text() for metric in self._metrics.values()) + "# EOF\n"
        if not self._socket:
            return False
        self._call("POST", "/v1/metrics", text.encode())
        return True

    # How it is done.

    def _metric(self, kind, name, help):
        if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
            raise ValueError(f"{name!r} is no name for a metric")
        with self._lock:
            metric = self._metrics.setdefault(name, kind(name, help))
        if type(metric) is not kind:
            raise ValueError(f"{name} is a {type(metric).__name__.lower()} already")
        return metric

    def _watch(self, provider, account):
        if not self._socket:
            raise NotSupervised(
                "there is no KISSOPS_SOCKET: tokens are given to bots that kissopsd has started (kissops up)"
            )
        with self._lock:
            # A thread does not survive a fork: the child gets its own.
            key = (os.getpid(), provider, account)
            if key not in self._watches:
                self._watches[key] = _Watch(self, provider, account)
            return self._watches[key]

    def _follow(self):
        """Has all tokens come over one stream; False where kissopsd has none."""
        with self._lock:
            if self._has_streams and self._streaming != os.getpid():
                self._streaming = os.getpid()
                threading.Thread(target=self._listen, name="kissops-tokens", daemon=True).start()
            return self._has_streams

    def _listen(self):
        wait = 0.05
        while True:
            begun, new = time.monotonic(), False
            try:
                for line in self._lines("/v1/tokens/stream"):
                    new = self._hand(line) or new
            except NotFound:
                with self._lock:
                    self._has_streams = False
                for watch in self._own_watches():
                    watch.poll()
                return
            except Refused as err:
                with self._lock:
                    self._streaming = None
                for watch in self._own_watches():
                    watch.deny(err)
                return
            except KissopsError:
                pass
            # Whoever ends it at once without anything new is not asked a thousand times a second.
            wait = 0.05 if new or time.monotonic() - begun > 1 else min(wait * 2, 10)
            time.sleep(wait)

    def _lines(self, path):
        connection = _Connection(self._socket, _SILENCE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _error(answer.status, _json(answer.read(_LARGEST_ANSWER)), path)
            line = answer.readline(_LARGEST_ANSWER)
            while line.endswith(b"\n"):
                yield _json(line)
                line = answer.readline(_LARGEST_ANSWER)
        except (OSError, http.client.HTTPException) as err:
            raise Unavailable(f"the stream of tokens broke off: {type(err).__name__}", transient=True) from None
        finally:
            connection.close()

    def _hand(self, line):
        with self._lock:
            watch = self._watches.get((os.getpid(), str(line.get("provider")), str(line.get("account"))))
        return watch is not None and watch.hand(line)

    def _own_watches(self):
        with self._lock:
            return [watch for key, watch in self._watches.items() if key[0] == os.getpid()]

    def _send(self, lines):
        address = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1)
                sock.sendto("\n".join(lines).encode(), address)
            return True
        except OSError:
            return False

    def _tell(self, path, body):
        if not self._socket:
            return False
        try:
            self._once("POST", path, body, 2)
            return True
        except KissopsError:
            return False

    def _call(self, method, path, body=None):
        """Asks, and asks again while kissopsd is away. Every request may be sent twice: none of them adds up."""
        if not self._socket:
            raise NotSupervised("there is no KISSOPS_SOCKET: the bot was not started by kissopsd")
        end = time.monotonic() + self._patience
        wait = 0.05
        while True:
            try:
                return self._once(method, path, body, _ANSWER_SECONDS)
            except Unavailable as err:
                left = end - time.monotonic()
                if left <= 0 or not err.transient:
                    raise
                time.sleep(min(wait, left))
                wait *= 2

    def _once(self, method, path, body, timeout):
        connection = _Connection(self._socket, timeout)
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
        else:
            headers = {"Content-Type": "application/json"}
            body = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read(_LARGEST_ANSWER)
        except (OSError, http.client.HTTPException) as err:
            # `from None`: what an HTTP error quotes is not ours to show.
            why = f"kissopsd does not answer at {self._socket}: {type(err).__name__}"
            raise Unavailable(why, transient=True) from None
        finally:
            connection.close()
        if 200 <= answer.status < 300:
            return _json(text) if answer.status == 200 else None
        raise _error(answer.status, _json(text), path)


class _Watch:
    """One grant: its current token. The next comes over the client's stream, or a thread asks for it."""

    def __init__(self, client, provider, account):
        self._client = client
        self._provider = provider
        self._account = account
        self._path = "/v1/token/" + "/".join(urllib.parse.quote(part, safe="") for part in (provider, account))
        self._changed = threading.Condition()
        self._current = None
        self._denied = None
        self._thread = None
        self._wanted = None  # after which generation somebody waits
        self._listeners = {}

    def token(self):
        current = self._current
        if current is not None and not current.expired:
            return current
        return self._take(self._client._call("GET", self._path))

    def invalid(self, generation):
        with self._changed:
            current = self._current
        if current is not None and current.generation > generation and not current.expired:
            return current
        return self._take(self._client._call("POST", self._path + "/invalid", {"generation": generation}) or
                          self._client._call("GET", self._path))

    def wait_next(self, generation, timeout):
        with self._changed:
            self._start(generation)
            def is_over():
                return self._denied or (self._current is not None and self._current.generation > generation)

            if not self._changed.wait_for(is_over, timeout):
                raise TimeoutError(f"no new token of {self._provider}/{self._account} in {timeout} s")
            if self._denied:
                raise self._denied
            return self._current

    def listen(self, generation, arrived):
        with self._changed:
            self._start(generation)
            if self._current is None or self._current.generation <= generation:
                self._listeners[arrived] = generation
                return
            current = self._current
        arrived(current, None)

    def forget(self, arrived):
        with self._changed:
            self._listeners.pop(arrived, None)

    def hand(self, line):
        """Takes a line of the stream; whether it is new."""
        before = self._current
        token = self._take(line)
        return before is None or token.generation > before.generation

    def poll(self):
        """There is no stream: the next token is asked for."""
        with self._changed:
            if self._current is not None or self._wanted is not None:
                self._start(self._wanted or 0)

    def _take(self, answer):
        token = _token(self._provider, self._account, answer)
        with self._changed:
            if self._current is None or self._current.generation <= token.generation:
                self._current = token
            token = self._current
            self._denied = None
            self._start(token.generation)
            self._changed.notify_all()
            ready = [one for one, after in self._listeners.items() if after < token.generation]
            for one in ready:
                del self._listeners[one]
        for arrived in ready:
            arrived(token, None)
        return token

    def _start(self, generation):
        self._wanted = generation
        if not self._client._follow() and self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(generation,), name=f"kissops-{self._provider}", daemon=True
            )
            self._thread.start()

    def _run(self, generation):
        wait = 0.05
        while True:
            with self._changed:
                if self._current is not None:
                    generation = max(generation, self._current.generation)
            seconds = _POLL_SECONDS if len(self._client._watches) <= _POLLS else _SHORT_POLL_SECONDS
            path = f"{self._path}?after={generation}&wait={seconds}s"
            try:
                with self._client._polls:
                    begun = time.monotonic()
                    answer = self._client._once("GET", path, None, seconds + 10)
                if answer is not None:
                    self._take(answer)
                # Whoever answers at once that there is nothing new is not asked a thousand times a second.
                new = answer is not None and answer.get("generation", 0) > generation
                wait = 0.05 if new or time.monotonic() - begun > 1 else min(wait * 2, 10)
            except (NotFound, Refused) as err:
                return self.deny(err)
            except KissopsError:
                wait = min(wait * 2, 10)
            time.sleep(wait)

    def deny(self, err):
        with self._changed:
            self._denied = err
            self._thread = None
            listeners, self._listeners = list(self._listeners), {}
            self._changed.notify_all()
        for arrived in listeners:
            arrived(None, err)


class _Metric:
    _suffix = ""
    _kind = ""

    def __init__(self, name, help):
        self.name = name[:-6] if self._suffix and name.endswith("_total") else name
        self._help = help
        self._values = {}
        self._lock = threading.Lock()

    def _text(self):
        with self._lock:
            values = sorted(self._values.items())
        lines = [f"# TYPE {self.name} {self._kind}"]
        if self._help:
            lines.append(f"# HELP {self.name} {_escaped(self._help)}")
        for labels, value in values:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            lines.append(f"{self.name}{self._suffix}{'{' + inner + '}' if inner else ''} {_number(value)}")
        return "\n".join(lines) + "\n"

    def _change(self, labels, change):
        for key in labels:
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", key):
                raise ValueError(f"{key!r} is no name for a label")
        key = tuple(sorted((name, str(text)) for name, text in labels.items()))
        with self._lock:
            self._values[key] = change(self._values.get(key, 0))


class Counter(_Metric):
    """Only grows."""

    _suffix, _kind = "_total", "counter"

    def inc(self, by=1, **labels):
        if not by >= 0:
            raise ValueError("a counter only grows")
        self._change(labels, lambda value: value + by)


class Gauge(_Metric):
    """Goes up and down."""

    _kind = "gauge"

    def set(self, value, **labels):
        self._change(labels, lambda _: value)

    def inc(self, by=1, **labels):
        self._change(labels, lambda value: value + by)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # An abstract name is written with an @, as in NOTIFY_SOCKET.
        self.sock.connect("\0" + self._path[1:] if self._path.startswith("@") else self._path)


async def _in_thread(call, *args):
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


def _one_line(text):
    return str(text).replace("\n", " ").replace("\r", " ")


def _escaped(text):
    return str(text).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value):
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(value) if type(value) is int else repr(float(value))


def _json(text):
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _token(provider, account, answer):
    try:
        access, generation, expires = answer["access_token"], int(answer["generation"]), answer.get("expires_at")
        if not isinstance(access, str) or not access:
            raise ValueError
        # Before Python 3.11 fromisoformat() knows no Z.
        expires = None if expires is None else datetime.datetime.fromisoformat(expires.replace("Z", "+00:00"))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unavailable("kissopsd answered something that is no token", "protocol") from None
    return Token(provider, account, access, generation, expires)


def _error(status, problem, path):
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or f"kissopsd answered {status} to {path.split('?')[0]}")
    if problem.get("help"):
        detail = f"{detail}: {problem['help']}"
    if code == "needs_reauth":
        return NeedsReauth(detail, code)
    if status == 404:
        return NotFound(detail, code or None)
    if status in (408, 429) or status >= 500:
        return Unavailable(detail, code or None, transient=True)
    if status == 409:
        return Unavailable(detail, code or None)  # an operator has to decide
    return Refused(detail, code or None)
