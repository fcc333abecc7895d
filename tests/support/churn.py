"""Connections that come and go all the while, each checked. Runs as a program in a pod's namespace: `serve ADDRESS PORT`, or
`dial ADDRESS PORT TASKS`, which ends when its input does and then prints what became of them.

The server speaks first, as databases and SSH do; the client answers, and both directions are checked to the end of the stream.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

GREETING, QUESTION = b"who is it?\n", b"it is me\n"
SILENT_S = 20.0
"""More than three SYNs take; what is not answered by then is lost."""


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GREETING)
    try:
        writer.write(await reader.readline())
        await reader.read()
    except ConnectionError:
        pass  # the client's side tells
    finally:
        writer.close()


async def serve(address: str, port: int) -> None:
    server = await asyncio.start_server(greet, address, port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


async def call(address: str, port: int) -> None:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), SILENT_S)
    try:
        assert await asyncio.wait_for(reader.readline(), SILENT_S) == GREETING
        writer.write(QUESTION)
        assert await asyncio.wait_for(reader.readline(), SILENT_S) == QUESTION
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), SILENT_S) == b""
    finally:
        writer.close()


async def dial(address: str, port: int, tasks: int) -> None:
    ended, outcomes = asyncio.Event(), Counter()

    async def go_on() -> None:
        while not ended.is_set():
            try:
                await call(address, port)
                outcomes["good"] += 1
            except (OSError, TimeoutError, AssertionError) as error:
                outcomes[repr(error)] += 1
            await asyncio.sleep(0.005)

    going = [asyncio.create_task(go_on()) for _ in range(tasks)]
    await asyncio.to_thread(sys.stdin.read)
    ended.set()
    await asyncio.gather(*going)
    print(json.dumps(outcomes))


@dataclass
class Churn:
    """What became of the connections, once the traffic is over."""

    good: int = 0
    failed: dict[str, int] = field(default_factory=dict)


def _start(namespace: str, *words: object) -> subprocess.Popen:
    command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, __file__, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def churn(client: str, address: str, port: int, *, server: str, server_address: str, server_port: int, tasks: int = 20) -> Iterator[Churn]:
    """From namespace `client` to address:port, which a server in namespace `server` answers at its own; all that began ends before this does."""
    with _start(server, "serve", server_address, server_port) as serving:
        try:
            assert serving.stdout.readline() == "ready\n"
            outcome = Churn()
            with _start(client, "dial", address, port, tasks) as dialling:
                try:
                    yield outcome
                finally:
                    said, _ = dialling.communicate(timeout=90)
            outcome.failed = json.loads(said)
            outcome.good = outcome.failed.pop("good", 0)
        finally:
            serving.terminate()


if __name__ == "__main__":
    role, address, port, *more = sys.argv[1:]
    asyncio.run(serve(address, int(port)) if role == "serve" else dial(address, int(port), int(more[0])))
