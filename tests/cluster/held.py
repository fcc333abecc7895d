"""Connections from a client's pod, held open and checked, and new ones all the while. The program below runs in the pod.

Each held connection asks every two seconds who serves it: another answer than the first, or none, is a break. New ones go to the first place.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from types import TracebackType

from release import wait_for
from testbed import Cluster

Place = tuple[str, int]
"""Address and port."""

PROGRAM = r"""
import asyncio, json, sys, time

PLACES, COUNT, PAUSE_S, NEW_S = json.loads(sys.argv[1]), int(sys.argv[2]), 2.0, 0.1
SILENT_S = 60.0
held, ended, failed = 0, [], []
opened = new = asked = 0
closing = asyncio.Event()


async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SILENT_S)
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return json.loads(await asyncio.wait_for(reader.readexactly(length), SILENT_S))


async def hold(number):
    global held, opened, asked
    how, writer, counted = "", None, False
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*PLACES[number % len(PLACES)]), SILENT_S)
        first = await ask(reader, writer)
        held, opened, counted = held + 1, opened + 1, True
        while not (closing.is_set() and number % 2):
            await asyncio.sleep(PAUSE_S)
            if await ask(reader, writer) != first:
                how = "another server"
                break
            asked += 1
    except Exception as error:
        how = repr(error)
    if how:
        ended.append([round(time.time(), 3), how])
    held -= counted
    if writer:
        writer.close()


async def fresh():
    global new
    while True:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*PLACES[0]), SILENT_S)
            await ask(reader, writer)
            writer.close()
            new += 1
        except Exception as error:
            failed.append([round(time.time(), 3), repr(error)])
        await asyncio.sleep(NEW_S)


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = [asyncio.create_task(hold(number)) for number in range(COUNT)] + [asyncio.create_task(fresh())]
    while line := await reader.readline():
        if line == b"close\n":
            closing.set()
        print(json.dumps(dict(held=held, opened=opened, asked=asked, new=new, ended=ended, failed=failed)), flush=True)
    for task in tasks:
        task.cancel()


asyncio.run(main())
"""


class Held:
    """`count` connections from the container `client` of `client` to these places in turn. A context: they end with it."""

    def __init__(self, cluster: Cluster, places: Sequence[Place], count: int, namespace: str = "shop", client: str = "deploy/client") -> None:
        words = [str(cluster.program("kubectl")), "-n", namespace, "exec", "-i", client, "-c", "client", "--", "python3", "-c", PROGRAM,
                 json.dumps(places), str(count)]
        self.count = count
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=cluster.environment())

    def look(self, word: str = "look") -> dict:
        """held, opened, asked (answers on held ones), new (short ones that went well), ended and failed ([moment, how] of each)."""
        self._process.stdin.write(word + "\n")
        return json.loads(self._process.stdout.readline())

    def opened(self) -> dict:
        """All of them are open."""
        return wait_for(lambda: (now := self.look())["held"] == self.count and now, "all connections open", seconds=60)

    def settled(self) -> dict:
        """What was seen, once each held connection has been asked again, and new ones tried, since this call."""
        def tried(seen: dict) -> int:
            return seen["new"] + len(seen["failed"])

        before = self.look()
        return wait_for(lambda: (now := self.look())["asked"] >= before["asked"] + 2 * now["held"] and tried(now) > tried(before) and now,
                        "answers on all connections", seconds=90)

    def unbroken(self) -> dict:
        """As `settled`; none of them ended, and no new one failed."""
        seen = self.settled()
        assert (seen["ended"], seen["failed"], seen["held"]) == ([], [], self.count)
        return seen

    def close_half(self) -> dict:
        """Every second one is to be closed in order now."""
        return self.look("close")

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
