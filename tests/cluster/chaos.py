"""Failures at random moments, one after the other, for as long as it is told, under the load and the judge of the tests.

    make chaos DURATION=600 [SEED=...]

Ends with status 1 at the first connection that breaks and should not, byte that is wrong, or number that is assigned twice; else writes
what was done and seen to docs/chaos.md. The same seed makes the same choices.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from harms import KUBERNETES, OWN, delete_by_force, kill_kubernetes, kill_own, told, unharmed
from load import Load
from recorder import Recorder
from release import Release
from support.history import judge
from testbed import Cluster

RESULT = Path(__file__).parents[2] / "docs" / "chaos.md"
AT_ONCE_S = 15.0
REST_S = 20.0
SERVER = "server deleted by force"


def harm(load: Load, kind: str, number: int, chance: random.Random) -> None:
    """One failure, and all that must hold after it."""
    before, gone, until = load.seen(), (), {}
    if kind == SERVER:
        victim = chance.choice([pod for pod in load.servers.values() if before.servers.get(pod.name)])
        gone, since = (victim.name,), time.time()
        delete_by_force(load, victim.name)
        told(load, before, since, AT_ONCE_S, victim.name)
        until = dict.fromkeys(load.clients, since + AT_ONCE_S)
        load.lose(victim.name)
        load.add_server(f"server-{number}", victim.node)
        load.add_client(f"client-{number}", chance.choice(load.cluster.nodes).name, before.servers[victim.name])
    else:
        (kill_own if kind in OWN else kill_kubernetes)(load.cluster, kind)
    load.goes_on()
    load.programs_a_change()
    unharmed(load, before, *gone, until=until)


def write(seconds: float, seed: int, done: Counter[str], load: Load, before, after, verdicts: tuple[int, int]) -> None:
    """The latest result, for docs/."""
    rows = "\n".join(f"| {kind} | {done[kind]} |" for kind in sorted(done))
    RESULT.write_text(f"""# Chaos

The latest run of `make chaos`: one failure after the other at random moments, on the three-node cluster, under connections whose every byte is
checked at both ends (tests/cluster/chaos.py). {datetime.now(UTC):%Y-%m-%d}, {seconds / 60:.0f} minutes, seed {seed}.

| failure (`kill -9` of every one) | times |
| --- | --- |
{rows}

- {before.open} connections were open to the end and ended in order; none broke but the {len(after.ended)} whose server had been deleted, and each of
  those was told within {AT_ONCE_S:.0f} seconds.
- {after.messages} messages and {after.fresh} further short connections; {len(after.wrong)} wrong bytes; the slowest
  answer took {after.slowest_s:.1f} s.
- {verdicts[0]} service ports were assigned, {verdicts[1]} of them numbers that another server had had, after their rest; none twice.
""")


def main(words: list[str]) -> None:
    seconds, seed = float(words[0]), int(words[1]) if len(words) > 1 else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance, done = random.Random(seed), Counter()
    cluster = Cluster.ensure()
    release = Release(cluster)
    release.images()
    release.install()
    release.refresh()
    load = Load(cluster, rest=f"{REST_S:.0f}s")
    load.remove()
    load.start()
    given = again = 0
    kinds = in_any_order([*OWN, *KUBERNETES, SERVER, SERVER], chance)
    until = time.monotonic() + seconds
    recorder = Recorder(cluster)
    recorder.start()
    while time.monotonic() < until:
        time.sleep(chance.uniform(0, 5))
        kind = next(kinds)
        print(f"{datetime.now(UTC):%H:%M:%S} {kind}", flush=True)
        if kind in ("kube-apiserver", "etcd"):  # watches end with the API server: a history is from one such end to the next
            given, again = _judged(recorder, given, again)
        harm(load, kind, sum(done.values()), chance)
        done[kind] += 1
        if kind in ("kube-apiserver", "etcd"):
            recorder = Recorder(cluster)
            recorder.start()
    given, again = _judged(recorder, given, again)
    before = load.seen()
    after = load.finish()
    if len(after.ended) != len(before.ended) or after.wrong or load.wrong_at_servers():
        sys.exit(f"not every connection ended in order: {after}")
    load.remove()
    write(seconds, seed, done, load, before, after, (given, again))


def in_any_order(kinds: list[str], chance: random.Random) -> Iterator[str]:
    """All of them again and again, each time in another order: none is left out by chance."""
    while True:
        yield from chance.sample(kinds, len(kinds))


def _judged(recorder: Recorder, given: int, again: int) -> tuple[int, int]:
    found = judge(recorder.changes(), {"load": REST_S})
    if found.faults:
        sys.exit("\n".join(found.faults))
    return given + found.given, again + found.again


if __name__ == "__main__":
    main(sys.argv[1:])
