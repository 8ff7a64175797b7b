"""Does what it is told on stdin with the client: a JSON list per line, answered by a JSON object per line."""

import asyncio
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients"))
sys.dont_write_bytecode = True

import kissops  # noqa: E402

ops = kissops.Client(patience=float(os.environ.get("PATIENCE", "20")))
last = None


def told(token):
    global last
    last = token
    shown = [repr(token), str(token), f"{token}", repr([token])]
    try:
        json.dumps(token, default=str)
        shown.append(json.dumps(token, default=str))
    except TypeError:
        pass
    expires = token.expires_at.isoformat() if token.expires_at else None
    return {"access": token.access_token, "generation": token.generation, "expires": expires, "shown": shown}


def run(verb, *args):
    if verb == "token":
        return told(ops.token(*args))
    if verb == "next":
        return told(ops.wait_next(last, *args))
    if verb == "next_async":
        return told(asyncio.run(ops.wait_next_async(last)))
    if verb == "token_async":
        return told(asyncio.run(ops.token_async(*args)))
    if verb == "invalid":
        return told(ops.invalid(last))
    if verb == "invalid_async":
        return told(asyncio.run(ops.invalid_async(last)))
    if verb == "metrics":
        served = ops.counter("served", 'lines, "all"')
        served.inc()
        served.inc(2, channel='a"b\\c\nd')
        ops.gauge("open_channels").set(2.5)
        return ops.push_metrics()
    if verb == "wrong_metric":
        try:
            ops.gauge("not a name")
        except ValueError as err:
            return str(err)
    if verb == "restart":
        return ops.request_restart(*args)
    if verb == "supervised":
        return ops.supervised
    return getattr(ops, verb)(*args)


for line in sys.stdin:
    try:
        answer = {"ok": run(*json.loads(line))}
    except TimeoutError:
        answer = {"error": "timeout"}
    except kissops.KissopsError as err:
        answer = {"error": err.code, "text": str(err)}
    print(json.dumps(answer), flush=True)
