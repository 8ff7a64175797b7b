"""Shows both ways to be watched: it says that it is ready, and keeps a heartbeat file fresh.

Every few minutes it gets stuck on purpose: its process lives, its heartbeat does not, and the supervisor restarts it.

usage: pulse.py HEARTBEAT
"""

import asyncio
import datetime
import json
import os
import random
import sys
import time

from chat import Bot, notify, say

BEAT_EVERY = 2  # seconds


class Pulse(Bot):
    beats = 0

    def __init__(self, heartbeat):
        super().__init__("pulse", "#lobby")
        self.heartbeat = heartbeat
        self.stuck_at = time.monotonic() + random.uniform(120, 300)

    def beat(self):
        at = datetime.datetime.now(datetime.timezone.utc).isoformat()
        partial = f"{self.heartbeat}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({"at": at, "ok": True}, file)
        os.replace(partial, self.heartbeat)  # a reader never finds it half written
        self.beats += 1
        notify(f"STATUS={self.beats} beats")

    async def idle(self):
        while time.monotonic() < self.stuck_at:
            self.beat()
            await asyncio.sleep(BEAT_EVERY)
        say("getting stuck on purpose: the heartbeat ends here")
        await asyncio.Event().wait()


if len(sys.argv) != 2:
    sys.exit(__doc__)
os.makedirs(os.path.dirname(sys.argv[1]) or ".", mode=0o700, exist_ok=True)
Pulse(sys.argv[1]).run()
