"""Both ends of a load of long connections whose every byte is checked. Standard library only; it knows nothing of Wharfinger.

program.py serve PORT STATUS_PORT
program.py hold ADDRESS PORT STATUS_PORT COUNT INTERVAL_S FRESH_PER_S

A connection carries two streams of bytes, one each way, that both ends can compute: byte n of a stream is a function of the connection's
number, the direction and n, so that a byte lost, repeated, out of place or of another connection shows where it comes. A third of the
connections talk (a message there, as many bytes back), a third listen (the server sends by itself), a third are idle until the end.
`hold` opens COUNT of them and besides FRESH_PER_S short ones a second. Its status, as JSON by HTTP on STATUS_PORT:

GET /            open, servers {name: open connections}, ended [one object each: id, kind, server, how, at, age_s], wrong [what, where],
                 messages, slowest_s, fresh {ok, failed: [...], pending: [when each began]}, done
GET /finish      ends the load: one more checked message on every connection, then FIN both ways

`how` a connection ended: `reset` (RST), `aborted` (its own stack ended it), `end` (FIN), `silent` (no answer for SILENT_S), else the errno.
"""

import asyncio
import errno
import hashlib
import json
import os
import random
import struct
import sys
import time
from collections import Counter
from contextlib import suppress

PERIOD = 65_521
TABLE = hashlib.shake_256(b"wharfinger").digest(PERIOD) * 2
MESSAGE = 160
HEAD = struct.Struct("!QBd")
"""Number, kind and the server's pause between two messages."""
NAME = 64
KINDS = TALK, LISTEN, IDLE, FRESH = 0, 1, 2, 3
WORDS = ("talk", "listen", "idle", "fresh")
SILENT_S = 240.0
CONNECT_S = 240.0
HOW = {errno.ECONNRESET: "reset", errno.EPIPE: "reset", errno.ECONNABORTED: "aborted"}


class Wrong(Exception):
    """A byte that is not what it must be."""


class Stream:
    """One direction of a connection: where it has come to."""

    def __init__(self, number: int, direction: int) -> None:
        self.offset = int.from_bytes(hashlib.blake2b(struct.pack("!QB", number, direction), digest_size=8).digest()) % PERIOD
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, PERIOD at most."""
        start = (self.offset + self.at) % PERIOD
        self.at += count
        return TABLE[start : start + count]

    def check(self, data: bytes) -> None:
        """Wrong unless these are the next bytes."""
        at = self.at
        expected = self.take(len(data))
        if data != expected:
            first = next(n for n in range(len(data)) if data[n] != expected[n])
            raise Wrong(f"byte {at + first} of {len(data)} from {at}")


class Server:
    """Answers, and counts what was wrong."""

    def __init__(self) -> None:
        self.name = os.environ.get("POD_NAME", "")
        self.open, self.accepted, self.wrong = 0, 0, []

    def status(self) -> dict:
        return {"open": self.open, "accepted": self.accepted, "wrong": self.wrong}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        pushing = None
        try:
            number, kind, pause_s = HEAD.unpack(await reader.readexactly(HEAD.size))
            incoming, outgoing = Stream(number, 0), Stream(number, 1)
            writer.write(self.name.encode().ljust(NAME))
            if kind == LISTEN:
                pushing = asyncio.create_task(self.push(writer, outgoing, pause_s))
            while data := await reader.read(16_384):
                incoming.check(data)
                writer.write(outgoing.take(len(data)))
                await writer.drain()
        except Wrong as error:
            self.wrong.append({"id": number, "what": str(error), "peer": str(writer.get_extra_info("peername"))})
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            if pushing:
                pushing.cancel()
            writer.close()

    @staticmethod
    async def push(writer: asyncio.StreamWriter, outgoing: Stream, pause_s: float) -> None:
        await asyncio.sleep(random.random() * pause_s)
        while True:
            writer.write(outgoing.take(MESSAGE))
            await asyncio.sleep(pause_s)


class Holder:
    """Opens connections, keeps them, and tells of each how it ended."""

    def __init__(self, address: str, port: int, count: int, interval_s: float, fresh_per_s: float) -> None:
        self.address, self.port, self.count, self.interval_s, self.fresh_per_s = address, port, count, interval_s, fresh_per_s
        self.base = int.from_bytes(os.urandom(5)) << 24
        self.finishing = asyncio.Event()
        self.gate = asyncio.Semaphore(32)
        self.servers: Counter[str] = Counter()
        self.ended, self.wrong, self.failed = [], [], []
        self.pending: dict[int, float] = {}
        self.messages, self.fresh, self.opened, self.slowest_s = 0, 0, 0, 0.0
        self.done = False

    def status(self) -> dict:
        return {"opened": self.opened, "open": sum(self.servers.values()), "servers": +self.servers, "ended": self.ended, "wrong": self.wrong,
                "messages": self.messages, "slowest_s": round(self.slowest_s, 3), "done": self.done,
                "fresh": {"ok": self.fresh, "failed": self.failed, "pending": list(self.pending.values())}}

    async def run(self) -> None:
        held = [asyncio.create_task(self.watch(n, n % 3)) for n in range(self.count)]
        tasks: set[asyncio.Task] = set()
        number = self.count
        while not self.finishing.is_set():
            if self.fresh_per_s:
                number += 1
                task = asyncio.create_task(self.watch(number, FRESH))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.finishing.wait(), 1 / (self.fresh_per_s or 1))
        await asyncio.gather(*held, *tasks)
        self.done = True

    async def watch(self, n: int, kind: int) -> None:
        """One connection from beginning to end."""
        told = {"id": n, "kind": WORDS[kind], "server": ""}
        began = time.time()
        how = ""
        if kind == FRESH:
            self.pending[n] = began
        try:
            await self.connection(self.base + n, kind, told)
        except Wrong as error:
            self.wrong.append({**told, "what": str(error), "at": time.time()})
            how = "wrong"
        except asyncio.IncompleteReadError:
            how = "end"
        except OSError as error:  # asyncio's time-out is one without a number
            how = HOW.get(error.errno, errno.errorcode.get(error.errno or 0, "silent" if isinstance(error, TimeoutError) else repr(error)))
        finally:
            self.pending.pop(n, None)
        if how:
            (self.failed if kind == FRESH else self.ended).append({**told, "how": how, "at": time.time(), "age_s": round(time.time() - began, 3)})

    async def connection(self, number: int, kind: int, told: dict) -> None:
        async with self.gate:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(self.address, self.port), CONNECT_S)
            try:
                writer.write(HEAD.pack(number, kind, self.interval_s))
                told["port"] = writer.get_extra_info("sockname")[1]
                told["server"] = (await asyncio.wait_for(reader.readexactly(NAME), SILENT_S)).decode().strip()
            except BaseException:
                writer.close()
                raise
        outgoing, incoming = Stream(number, 0), Stream(number, 1)
        if kind != FRESH:
            self.opened += 1
            self.servers[told["server"]] += 1
        try:
            if kind != FRESH:
                await (self.talk, self.listen, self.idle)[kind](reader, writer, outgoing, incoming)
            await self.end(reader, writer, outgoing, incoming)
            self.fresh += kind == FRESH
        finally:
            if kind != FRESH:
                self.servers[told["server"]] -= 1
            writer.close()

    async def message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outgoing: Stream, incoming: Stream) -> None:
        """One message, and as many bytes back."""
        sent = time.monotonic()
        writer.write(outgoing.take(MESSAGE))
        incoming.check(await asyncio.wait_for(reader.readexactly(MESSAGE), SILENT_S))
        self.messages += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - sent)

    async def talk(self, reader, writer, outgoing, incoming) -> None:
        await asyncio.sleep(random.random() * self.interval_s)
        while not self.finishing.is_set():
            await self.message(reader, writer, outgoing, incoming)
            await asyncio.sleep(self.interval_s)

    async def listen(self, reader, writer, outgoing, incoming) -> None:
        while not self.finishing.is_set():
            data = await asyncio.wait_for(reader.read(16_384), SILENT_S)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            incoming.check(data)
            self.messages += 1

    async def idle(self, reader, writer, outgoing, incoming) -> None:
        """Nothing, until the load ends; an end of the connection shows at once."""
        byte = asyncio.create_task(reader.read(1))
        done = asyncio.create_task(self.finishing.wait())
        await asyncio.wait({byte, done}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not byte.done():
            byte.cancel()
            await asyncio.wait({byte})
            return
        data = byte.result()
        raise Wrong(f"{data!r} on an idle connection") if data else asyncio.IncompleteReadError(b"", 1)

    async def end(self, reader, writer, outgoing, incoming) -> None:
        """A last message, FIN, and everything that the server still sends, up to its FIN; each byte that was asked for must have come."""
        writer.write(outgoing.take(MESSAGE))
        writer.write_eof()
        while data := await asyncio.wait_for(reader.read(16_384), SILENT_S):
            incoming.check(data)
        if incoming.at < outgoing.at:
            raise asyncio.IncompleteReadError(b"", outgoing.at - incoming.at)
        self.messages += 1


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Server | Holder) -> None:
    """A status request."""
    with suppress(OSError):
        if b" /finish " in await reader.readline():
            who.finishing.set()
        body = json.dumps(who.status()).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
    writer.close()


async def main(words: list[str]) -> None:
    """Do what the words say."""
    match words:
        case ["serve", port, status_port]:
            server = Server()
            await asyncio.start_server(lambda reader, writer: tell(reader, writer, server), port=int(status_port))
            async with await asyncio.start_server(server.serve, port=int(port), backlog=2048) as listening:
                await listening.serve_forever()
        case ["hold", address, port, status_port, count, interval_s, fresh_per_s]:
            holder = Holder(address, int(port), int(count), float(interval_s), float(fresh_per_s))
            await asyncio.start_server(lambda reader, writer: tell(reader, writer, holder), port=int(status_port))
            await holder.run()
            await asyncio.Event().wait()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
