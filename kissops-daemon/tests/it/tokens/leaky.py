"""A bot that gives its token away in every way there is. Its first life ends with a request to be restarted, its
second with a traceback, and the third goes on."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, sys.argv[1])

import kissops  # noqa: E402


def crash(credential):
    raise RuntimeError(f"cannot log in with {credential!r}")


with open("lives", "a+") as file:
    file.write("x")
    file.seek(0)
    life = len(file.read())
ops = kissops.Client()
token = ops.token("mock", "ann").access_token
print("plain", token, "and", token * 2)
print("json", json.dumps({"access_token": token}), "form", urllib.parse.urlencode({"t": token}))
print("percent", urllib.parse.quote(token, safe=""), "repr", repr(token), "url", f"https://x:{token}@y/?t={token}")
for before in ("", "u:", "name:"):
    print("basic", base64.b64encode((before + token).encode()).decode())
    print("url-safe", base64.urlsafe_b64encode((before + token).encode()).decode())
print("environment", dict(os.environ).get("LEAKED"), flush=True)
for at in (1, len(token) // 2, len(token) - 6):
    os.write(1, b"two writes " + token[:at].encode())
    time.sleep(0.02)
    os.write(1, token[at:].encode() + b" of one token\n")
os.write(2, b"\xff\x00 " + token.encode() + b" \xfe\n")
print("x" * 5000, token, "y" * 5000, flush=True)
ops.status(f"busy with {token}")
ops.counter("logins", f"with {token}").inc(token=token)
ops.push_metrics()
if life == 1:
    ops.request_restart(f"{token} was refused")
elif life == 2:
    print("no end of line", token, end="", flush=True)
    crash(token)
else:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", token])
    print("child", child.pid, flush=True)
    ops.ready(f"as {token}")
time.sleep(1000)
