#!/usr/bin/env python3
"""Measures how fast a vault refreshes: grants that are all due at once, each with callers that wait for it.

    cargo build --profile bench -p kissops-mock-provider
    cargo build --profile bench -p kissops-benches --example load
    python3 benches/tokens/run.py [--grants 100000] [--callers 10] [--delay 0,100] [--runs 1]

The mock provider is a process of its own, its tokens are one-time, and its ledger says how many requests there were. The
store is a SQLite file with the durability that it has in production. CPU is that of the process that refreshes; the mock's
is beside it, since both share the machine.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("KISSOPS_BIN", os.path.join(ROOT, "target/release"))


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(options, delay):
    folder = tempfile.mkdtemp(prefix="kissops-tokens-", dir=options.folder)
    file = os.path.join(folder, "tokens.json")
    mock = subprocess.Popen(
        [os.path.join(BIN, "mock-provider"), "--accounts", str(options.grants), "--rotation", "one-time"],
        stdout=subprocess.PIPE, text=True)
    try:
        url = mock.stdout.readline().split()[-1]
        with open(file, "wb") as out:
            out.write(call(url + "/_mock/import"))
        if delay:
            call(url + "/_mock/knobs", {"knobs": {"delay_before_ms": delay}})
        load = os.path.join(BIN, "examples/load")
        subprocess.run([load, "fill", folder, file], check=True)
        before = cpu(mock.pid)
        done = subprocess.run([load, "run", folder, url, str(options.callers)], check=True, stdout=subprocess.PIPE)
        took = json.loads(done.stdout)
        took["mock_cpu"] = cpu(mock.pid) - before
        totals = json.loads(call(url + "/_mock/totals"))
        took["requests"] = totals["requests"].get("token", 0)
        took["overlaps"] = totals["overlaps"]
        return took
    finally:
        mock.send_signal(signal.SIGTERM)
        mock.wait()
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--grants", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--delay", default="0,100", help="of the provider, in milliseconds")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", help="where the store is; not in memory")
    options = parser.parse_args()
    print(f"{options.grants} grants, {options.callers} callers each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| delay, ms | wall, s | refreshes/s | CPU, s | mock's CPU, s | peak RSS, MiB | token requests | answers to callers |")
    print("|---|---|---|---|---|---|---|---|")
    good = True
    for delay in map(int, options.delay.split(",")):
        for _ in range(options.runs):
            t = measure(options, delay)
            print(f"| {delay} | {t['seconds']:.1f} | {options.grants / t['seconds']:.0f} | {t['cpu']:.1f} | {t['mock_cpu']:.1f} "
                  f"| {t['rss_kib'] / 1024:.0f} | {t['requests']} | {t['served']} |", flush=True)
            good &= t["requests"] == options.grants and t["served"] == options.grants * options.callers and not t["overlaps"]
    if not good:
        sys.exit("not one request for each grant, or a caller without its token")


if __name__ == "__main__":
    main()
