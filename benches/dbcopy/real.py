#!/usr/bin/env python3
"""Copies files that other programs left behind, each to a database of its own, and says what came of it.

    .ci/with-postgres python3 benches/dbcopy/real.py FILE...

A file that is refused is tried again with --skip-untranslatable, then with --on-mismatch text, then null.
"""
import json, os, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KISSOPS = os.environ.get("KISSOPS", os.path.join(ROOT, "target/debug/kissops"))
WAYS = [[], ["--skip-untranslatable"], ["--skip-untranslatable", "--on-mismatch", "text"],
        ["--skip-untranslatable", "--on-mismatch", "null"]]


def main():
    server = os.environ.get("KISSOPS_TEST_POSTGRES") or sys.exit("run this by .ci/with-postgres")
    print("| file | tables | rows | with | keys, indexes, checks | refused at first |\n|---|---|---|---|---|---|")
    for number, path in enumerate(sys.argv[1:]):
        database = f"real_{number}"
        subprocess.run(["psql", "-q", "-c", f"CREATE DATABASE {database}", server], check=True)
        target, first = server.replace("/postgres?", f"/{database}?"), ""
        for way in WAYS:
            done = subprocess.run([KISSOPS, "db", "copy", "--from", path, "--json", *way], capture_output=True, text=True,
                                  env={**os.environ, "KISSOPS_DB_COPY_TO": target})
            if done.returncode == 0:
                break
            plan = json.loads(done.stdout)["plan"] if done.stdout else {"findings": [], "not_copied": []}
            why = [f"{one['table']}.{one['column']}: {one['problem']}" for one in plan["findings"] if one["refused"]]
            why += [f"{one['what']} {one['name']}" for one in plan["not_copied"] if one["refused"]]
            first = first or "; ".join(why) or done.stderr.strip()
        name, options = os.path.basename(path), " ".join(way)
        if done.returncode:
            print(f"| {name} | – | – | refused | – | {first} |")
            continue
        report = json.loads(done.stdout)
        print(f"| {name} | {len(report['proven']['tables'])} | {report['rows']} | {options} | {report['proven']['steps']} | {first} |")


main()
