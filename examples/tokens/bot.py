"""Says hello once a second, in the name of an account: through an API that wants a good token every time.

A bot of your own has kissops.py beside it; this one takes it from where it lives in the repository.

usage: bot.py ACCOUNT
"""

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kissops-cli", "clients"))

import kissops  # noqa: E402

API = os.environ.get("API", "http://127.0.0.1:7790/helix/users")
EVERY = 1  # seconds


def who_am_i(token):
    """The name that the API knows the token's owner by; None if it does not accept the token."""
    request = urllib.request.Request(API, headers={"Authorization": f"Bearer {token.access_token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["data"][0]["login"]
    except urllib.error.HTTPError as err:
        if err.code == 401:
            return None
        raise


def main(account):
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    ops = kissops.Client()
    greetings = ops.counter("greetings", "How often the bot has said hello.")
    token = ops.token("mock", account)
    last = None
    while not stopping.is_set():
        try:
            # From memory, unless there is a new one: so this costs nothing, and what is used is never old.
            token = ops.token("mock", account)
            name = who_am_i(token)
            if name is None:
                print(f"generation {token.generation} was refused", flush=True)
                token = ops.invalid(token)
                name = who_am_i(token)
        except (kissops.Unavailable, urllib.error.URLError) as err:
            print(f"not now: {err}", flush=True)
        else:
            greetings.inc()
            if last != token.generation:
                print(f"hello from {name}, generation {token.generation}", flush=True)
                ops.ready(f"{name}, generation {token.generation}")
                ops.push_metrics()
                last = token.generation
        stopping.wait(EVERY)
    ops.stopping()
    print("good-bye", flush=True)


if len(sys.argv) != 2:
    sys.exit(__doc__)
main(sys.argv[1])
