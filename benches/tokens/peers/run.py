#!/usr/bin/env python3
"""What becomes of grants when the provider stumbles once: kissops and @twurple/auth on the same mock provider.

    cargo build --profile bench -p kissops-mock-provider
    cargo build --profile bench -p kissops-benches --example load
    (cd FOLDER && npm install @twurple/auth)
    python3 benches/tokens/peers/run.py FOLDER [--grants 100] [--callers 10]

Every access token has expired. Each grant is asked for by all callers at once, again a second later where there was no token, for a
minute at most. The first refresh of every grant meets the trouble; after that the provider works. Lost is who has no token
in the end, although the provider would give one.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from run import BIN, call  # noqa: E402

TROUBLES = {
    "none": None,
    "503 once": "unavailable",
    "connection cut before the provider has acted, once": "drop_before_commit",
    "answer without `expires_in` once": "missing_expires_in",
    "answer without `scope` once": "missing_scope",
}


def twurple(folder, url, file, options):
    script = os.path.join(options.node, "twurple.mjs")
    shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "twurple.mjs"), script)
    return ["node", script, url, file, str(options.callers)]


def kissops(folder, url, file, options):
    load = os.path.join(BIN, "examples/load")
    subprocess.run([load, "fill", folder, file], check=True)
    return [load, "run", folder, url, str(options.callers)]


def measure(peer, answer, options):
    folder = tempfile.mkdtemp(prefix="kissops-peers-")
    command = [os.path.join(BIN, "mock-provider"), "--accounts", str(options.grants), "--rotation", "rotating"]
    if peer is twurple:
        command.append("--confidential")
    mock = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = mock.stdout.readline().split()[-1]
        rows = json.loads(call(url + "/_mock/import"))
        file = os.path.join(folder, "tokens.json")
        with open(file, "w") as out:
            json.dump(rows, out)
        for row in rows if answer else []:
            call(url + "/_mock/script", {"account": row["account"], "steps": [{"answer": answer, "times": 1}]})
        done = subprocess.run(peer(folder, url, file, options), check=True, stdout=subprocess.PIPE)
        kept = json.loads(done.stdout)["kept"]
        return json.loads(call(url + "/_mock/totals"))["requests"].get("token", 0), options.grants - kept
    finally:
        mock.send_signal(signal.SIGTERM)
        mock.wait()
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("node", help="the folder in which @twurple/auth is installed")
    parser.add_argument("--grants", type=int, default=100)
    parser.add_argument("--callers", type=int, default=10)
    options = parser.parse_args()
    print("| trouble | kissops: requests, lost | @twurple/auth: requests, lost |\n|---|---|---|")
    for name, answer in TROUBLES.items():
        cells = ["{}, {}".format(*measure(peer, answer, options)) for peer in (kissops, twurple)]
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
