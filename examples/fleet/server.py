"""A tiny chat server that speaks a little IRC over a unix socket: NICK, JOIN, PRIVMSG, PING.

usage: server.py SOCKET
"""

import asyncio
import contextlib
import os
import signal
import sys

PING_EVERY = 20  # seconds; who has not answered by the next one is gone
LINE_MAX = 2048  # bytes
BACKLOG_MAX = 1 << 16  # bytes that a client may leave unread before it is dropped


def say(text):
    print(text, flush=True)


class Client:
    def __init__(self, writer):
        self.writer = writer
        self.nick = None
        self.channels = set()
        self.answered = True

    def send(self, line):
        if self.writer.transport.get_write_buffer_size() > BACKLOG_MAX:
            self.writer.transport.abort()
        elif not self.writer.is_closing():
            self.writer.write(line.encode() + b"\n")


class Server:
    def __init__(self):
        self.clients = set()
        self.tasks = set()
        self.messages = 0

    def tell(self, channel, line, but=None):
        for client in self.clients:
            if client is not but and channel in client.channels:
                client.send(line)

    async def serve(self, reader, writer):
        client = Client(writer)
        self.clients.add(client)
        self.tasks.add(asyncio.current_task())
        try:
            while line := await reader.readline():
                self.handle(client, line.decode(errors="replace").strip())
        except (ConnectionError, ValueError):  # ValueError: a line that is too long
            pass
        finally:
            self.clients.discard(client)
            self.tasks.discard(asyncio.current_task())
            for channel in sorted(client.channels):
                self.tell(channel, f":{client.nick} PART {channel}")
            if client.nick:
                say(f"{client.nick} left")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def handle(self, client, line):
        word, _, rest = line.partition(" ")
        if word == "NICK" and rest:
            client.nick = "".join(c for c in rest if c.isalnum() or c in "_-")[:32] or "nobody"
        elif word == "JOIN" and rest and client.nick:
            client.channels.add(rest)
            say(f"{client.nick} joined {rest}")
            self.tell(rest, f":{client.nick} JOIN {rest}")
        elif word == "PRIVMSG" and client.nick:
            channel = rest.partition(" :")[0]
            self.messages += 1
            self.tell(channel, f":{client.nick} {line}", but=client)
        elif word == "PONG":
            client.answered = True

    async def ping(self):
        while True:
            await asyncio.sleep(PING_EVERY)
            for client in list(self.clients):
                if not client.answered:
                    client.writer.transport.abort()
                client.answered = False
                client.send("PING :there")
            say(f"{len(self.clients)} clients, {self.messages} messages so far")


async def main(path):
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    server = Server()
    listener = await asyncio.start_unix_server(server.serve, path, limit=LINE_MAX)
    say(f"listening on {path}")
    pings = asyncio.create_task(server.ping())
    await stop.wait()
    say("asked to stop: closing")
    pings.cancel()
    listener.close()
    for client in list(server.clients):
        client.writer.close()
    if server.tasks:
        await asyncio.wait(server.tasks, timeout=2)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
