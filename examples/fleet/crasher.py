"""Joins the lobby and dies of a bug within half a minute; sometimes it asks for a restart instead (exit code 75)."""

import asyncio
import os
import random
import sys
import traceback

from chat import Bot, say


class Crasher(Bot):
    async def idle(self):
        await asyncio.sleep(random.uniform(10, 25))
        if random.random() < 0.2:
            say("a new version of me is there: please restart me")
            self.end(75)
        orders = {"tea": 2, "coffee": 1}
        try:
            say(f"serving {orders['biscuits']} biscuits")
        except KeyError:
            traceback.print_exc()
            self.end(1)

    @staticmethod
    def end(code):
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: that would end this task alone, not the process.
        os._exit(code)


Crasher("crasher", "#lobby").run()
