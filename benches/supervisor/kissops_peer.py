"""kissops as a peer of the supervisor bench: an adapter, and the bench's own command line with it added.

    python3 kissops_peer.py BENCH_DIR run --peers floor,kissops --n 100,1000 --out results.jsonl
    python3 kissops_peer.py BENCH_DIR report results.jsonl

BENCH_DIR holds the bench (bench.py, peers.py, procs.py, child.c, floor.c). $KISSOPS_BIN is the folder of kissopsd and
kissops-keeper (default: target/release of this repository).

Peers that this adds:
  kissops         logs as they came (`raw`), rotated at 10 MB, not compressed: what the other peers do
  kissops-text    every line stamped
  kissops-json    every line stamped and in JSON, ten secrets masked: what no other peer does
  kissops-nocg    as kissops, without cgroups
  kissops-1g      as kissops, with a gigabyte of memory touched in the daemon
"""
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, sys.argv.pop(1))
import bench  # noqa: E402
import peers  # noqa: E402

BIN = Path(os.environ.get("KISSOPS_BIN", Path(__file__).resolve().parents[2] / "target/release"))


class Kissops(peers.Peer):
    name = "kissops"
    default_delay = "0-1 s (backoff from 1 s with full jitter)"
    used_delay = "0"
    format = "raw"
    secrets = 0
    extra_env = {}

    def version(self):
        return peers.run_version(BIN / "kissopsd", "--version")

    def env(self):
        secrets = {f"BENCH_SECRET_{i}": f"s3cret-{i}-{'abcdefghij'[i] * 20}" for i in range(self.secrets)}
        return {**super().env(), **secrets, **self.extra_env}

    def write_config(self, services):
        self.conf = self.root / "kissops.toml"
        # JSON takes nearly twice the room: as many lines are to be kept.
        keep = max(s.keep for s in services) * (2 if self.format == "json" else 1)
        out = [f"""[daemon]
name = "bench"
state_dir = "{self.root}/state"
runtime_dir = "{self.root}/run"
log_dir = "{self.logdir}"
start_concurrency = 50
start_jitter = "0s"

[daemon.log]
level = "warn"

[defaults]
backoff = {{ base = "0s", cap = "0s" }}
start_limit = "off"
stop = {{ signal = "SIGTERM", grace = "5s" }}
logs = {{ format = "{self.format}", rotate_size = "{peers.ROTATE // 1_000_000}MB", keep = {keep}, compress = false }}
"""]
        env = ", ".join(f'BENCH_SECRET_{i} = {{ env = "BENCH_SECRET_{i}" }}' for i in range(self.secrets))
        for s in services:
            out.append(f"[instance.{s.name}]\ncommand = {json.dumps([str(a) for a in s.argv])}\nenv = {{ {env} }}\n")
        self.conf.write_text("\n".join(out))

    def command(self):
        return [str(BIN / "kissopsd"), "--config", str(self.conf)]

    def stop_one(self, name):
        self.ctl([str(BIN / "kissops"), "--config", str(self.conf), "stop", name])

    def log_files(self, name):
        folder = self.logdir / name
        return [p for p in folder.iterdir() if p.is_file()] if folder.exists() else []


class KissopsText(Kissops):
    name = "kissops-text"
    format = "text"

    def log_streams(self, name):
        """The bench counts lines of 100 bytes: the stamps are taken off again."""
        for path in self.log_files(name):
            script = r"s/^.\{27\} O //"
            with subprocess.Popen(["sed", script, str(path)], stdout=subprocess.PIPE) as p:
                yield p.stdout


class KissopsJson(Kissops):
    name = "kissops-json"
    format = "json"
    secrets = 10

    def log_streams(self, name):
        for path in self.log_files(name):
            script = r's/^.*"line":"//; s/"}$//'
            with subprocess.Popen(["sed", script, str(path)], stdout=subprocess.PIPE) as p:
                yield p.stdout


class KissopsNoCgroup(Kissops):
    name = "kissops-nocg"
    extra_env = {"KISSOPS_NO_CGROUP": "1"}


class KissopsLarge(Kissops):
    """Spawning must not cost more when the daemon is large: a library gives it a gigabyte before its main()."""
    name = "kissops-1g"

    def write_config(self, services):
        super().write_config(services)
        source = self.root / "ballast.c"
        source.write_text("#include <stdlib.h>\n#include <string.h>\n"
                          "__attribute__((constructor)) static void grow(void) { memset(malloc(1u << 30), 1, 1u << 30); }\n")
        library = self.root / "ballast.so"
        subprocess.run(["cc", "-O0", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self.extra_env = {"LD_PRELOAD": str(library)}


for peer in (Kissops, KissopsText, KissopsJson, KissopsNoCgroup, KissopsLarge):
    peers.PEERS[peer.name] = peer
    bench.PEERS[peer.name] = peer

if __name__ == "__main__":
    bench.main()
