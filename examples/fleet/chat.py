"""What the python bots of this fleet share: a connection to the chat server that comes back, and a clean end."""

import asyncio
import contextlib
import os
import signal
import socket

SOCKET = ".kissops/chat.sock"


def say(text):
    print(text, flush=True)


def notify(message):
    """Tells the supervisor, as sd_notify(3) describes; does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, contextlib.suppress(OSError):
        line.sendto(message.encode(), address)


class Bot:
    """A bot in one channel. Override `heard` and `idle`; both run while the bot is connected."""

    def __init__(self, nick, channel, path=SOCKET):
        self.nick, self.channel, self.path = nick, channel, path
        self.writer = None

    async def heard(self, who, text):
        """Somebody said `text`; None means that they joined."""

    async def idle(self):
        """Whatever the bot does by itself."""

    def write(self, text):
        if self.writer:
            self.writer.write(f"PRIVMSG {self.channel} :{text}\n".encode())

    async def session(self):
        reader, self.writer = await asyncio.open_unix_connection(self.path)
        try:
            self.writer.write(f"NICK {self.nick}\nJOIN {self.channel}\n".encode())
            say(f"joined {self.channel}")
            notify(f"READY=1\nSTATUS=in {self.channel}")
            while line := (await reader.readline()).decode(errors="replace").strip():
                who, _, rest = line.partition(" ")
                if who == "PING":
                    self.writer.write(f"PONG {rest}\n".encode())
                elif rest.startswith("JOIN ") and who[1:] != self.nick:
                    await self.heard(who[1:], None)
                elif rest.startswith("PRIVMSG "):
                    await self.heard(who[1:], rest.partition(" :")[2])
        finally:
            self.writer.close()
            self.writer = None

    async def stay(self):
        delay = 0.2
        while True:
            idle = asyncio.create_task(self.idle())
            try:
                await self.session()
                say("the server closed the connection")
                delay = 0.2
            except OSError as err:
                say(f"no chat: {err}")
            finally:
                idle.cancel()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5)

    async def until_stopped(self):
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        chat = asyncio.create_task(self.stay())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({chat, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if chat.done():
            chat.result()  # raises what went wrong
        notify("STOPPING=1")
        say("asked to stop: good-bye")
        chat.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await chat

    def run(self):
        asyncio.run(self.until_stopped())
