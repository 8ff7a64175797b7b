"""Greets who joins the lobby, and now and then gives the echo bot (which is written in Rust) something to do."""

import asyncio
import random

from chat import Bot, say

SAYINGS = [
    "a bot that stops cleanly is a bot that starts cleanly",
    "is anybody there?",
    "grüße aus der Lobby 🦀",
    "who watches the watchdog?",
]


class Greeter(Bot):
    async def heard(self, who, text):
        if text is None:
            self.write(f"welcome, {who}!")
            say(f"greeted {who}")
        elif who == "echo":
            say(f"echo answered: {text}")

    async def idle(self):
        while True:
            await asyncio.sleep(random.uniform(8, 20))
            self.write(f"!echo {random.choice(SAYINGS)}")


Greeter("greeter", "#lobby").run()
