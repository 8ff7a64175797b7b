"""One bot per channel, many of one definition.

usage: channel.py --channel NAME
"""

import argparse
import asyncio
import random

from chat import Bot, notify, say


class Host(Bot):
    lines = 0

    async def heard(self, who, text):
        if text:
            self.write(f"{who}: noted")

    async def idle(self):
        while True:
            await asyncio.sleep(random.uniform(10, 30))
            self.lines += 1
            self.write(f"line {self.lines} of {self.nick}")
            notify(f"STATUS=in {self.channel}, {self.lines} lines said")
            if self.lines % 5 == 0:
                say(f"{self.lines} lines said in {self.channel}")


parser = argparse.ArgumentParser(description="Hosts one channel of the chat.")
parser.add_argument("--channel", required=True, help="its name, without #")
name = parser.parse_args().channel
Host(f"host-{name}", f"#{name}").run()
