"""Makes the database of a predecessor: FILE with Fernet tokens, FILE.key, and FILE.plain with what was encrypted."""

import datetime
import sqlite3
import sys

from cryptography.fernet import Fernet

path, rows = sys.argv[1], int(sys.argv[2])
key = Fernet.generate_key()
fernet = Fernet(key)
base = 1_893_456_000


def expires(i):
    at = base + i % 14_400
    naive = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).replace(tzinfo=None)
    return [at, at * 1000, naive.isoformat(), None][i % 4]


def made():
    with open(path + ".plain", "w", encoding="utf-8") as plain:
        for i in range(rows):
            access = f"access-{i}-" + "aü"[i % 2] * (i % 67)
            refresh = None if i % 10 == 9 else f"refresh-{i}-" + "r" * (i % 31)
            plain.write(f"account_{i}\t{access}\t{refresh or ''}\n")
            sealed = refresh and fernet.encrypt(refresh.encode())
            # Some programs keep text, others what `encrypt` gives.
            token = fernet.encrypt(access.encode())
            token = token if i % 3 == 0 else token.decode()
            yield (f"account_{i}", 1000 + i, token, sealed, expires(i), "chat:read chat:edit")


with sqlite3.connect(path) as db:
    db.execute(
        "CREATE TABLE oauth (name TEXT, number INTEGER, token, renewal, valid_until, rights TEXT)"
    )
    db.executemany("INSERT INTO oauth VALUES (?, ?, ?, ?, ?, ?)", made())
with open(path + ".key", "w", encoding="ascii") as file:
    file.write(key.decode())
