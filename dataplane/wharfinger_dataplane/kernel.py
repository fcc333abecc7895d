"""The kernel's side: programs loaded, maps adopted from where they are pinned, and the tables in them as `tables.Store` has them.

Rules:
- Maps live in <bpffs>/wharfinger/maps-<layout>/, links in <bpffs>/wharfinger/links/. They outlive the agent; the next adopts them.
- The layout's name changes with any map's size, so a release with other maps makes its own beside the former one's. What connections
  remember is carried over, the rest is compiled again. So what a connection's record means must stay (tables.h): a release may add to its
  end, which reads as zeros where the former release had none, and is cut off for one that knows less.
- While it is carried over TCP is held at the pods: two packets of one handshake by programs of two releases, each with its own records,
  would leave the connection half here and half there. TCP repeats what it loses in these milliseconds.
- What cannot be carried over is no reason to break it: the former programs and maps then go on, and the agent says so.
- Former maps go once no link's program uses them.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple

from wharfinger_dataplane import _bpf
from wharfinger_dataplane._engine import HOOKS, REASONS
from wharfinger_dataplane._records import (
    COUNTER_REASONS,
    SEEN_AT,
    SETTING_GENERATION,
    SETTING_HELD_UNTIL,
    SETTING_MADE,
    Asked,
    Batch,
    pack_index,
    pack_setting,
    pack_tracing,
)

BTF = Path("/sys/kernel/btf/vmlinux")
OBJECT = Path(__file__).parent / "wharfinger.bpf.o"
LAYOUT = 3
"""Raised when a map's contents change their meaning but not their size."""
CONNECTION_TABLES = ("flows", "wires", "opening_flows", "opening_wires", "closed_flows", "closed_wires")
HOLD_NS = 1_000_000_000
"""How long a hold lasts if the agent that began it goes on no further."""
SETTLE_S = 0.002
"""For packets that were on their way through a program when the hold began."""
HOLDS = 5
"""How often it is tried again when the processor was taken from the agent for longer than a hold lasts."""
MARKS = 0xFFFFFFFF
"""Marks that a packet can have, but for none."""
ROOM = 0.9
"""How much of a table the records that are carried over may take: more come while they are counted."""


class Lapsed(Exception):
    """TCP passed while it was to be held."""


class Carried(NamedTuple):
    """What a change of tables came to: records of connections, and for how long TCP was held."""

    records: int
    held_ms: float


def layout_name(maps: list[tuple]) -> str:
    """The directory of maps of this layout: (name, kind, key size, value size, capacity) of each."""
    return "maps-" + hashlib.blake2b(repr((LAYOUT, maps)).encode(), digest_size=6).hexdigest()


class Kernel:
    """Programs and maps. `put`, `get`, `delete` and `items` speak the bytes of the C structures; every failure is an OSError."""

    def __init__(self, loaded: _bpf.Object, root: Path, maps: Path) -> None:
        self._object = loaded
        self._root = root
        self._maps = maps
        self._held_until = 0
        self._generations = threading.Lock()
        self.programs: Mapping[str, _bpf.Program] = loaded.programs

    @classmethod
    def open(cls, bpffs: Path, capacities: Mapping[str, int] | None = None) -> Kernel:
        """Loads the programs packaged beside this module. `bpffs`: where a BPF file system is mounted; `capacities`: entries of maps that
        shall differ from what the object says."""
        capacities = capacities or {}
        maps = [(*entry[:4], capacities.get(entry[0], entry[4])) for entry in _bpf.layout(OBJECT)]
        root = bpffs / "wharfinger"
        directory = root / layout_name(maps)
        if not BTF.exists():
            raise OSError(errno.EOPNOTSUPP, f"this kernel tells nothing of its own structures ({BTF} is missing), which the programs read: "
                          "use a kernel that was built with CONFIG_DEBUG_INFO_BTF, as distributions' are")
        kernel = cls(_bpf.Object(OBJECT, directory, dict(capacities)), root, directory)
        mark, unset = pack_setting(SETTING_MADE, 0)
        if kernel.get("settings", mark) == unset:
            kernel.set(SETTING_MADE, secrets.randbelow(MARKS) + 1)
        return kernel

    @property
    def links(self) -> Path:
        """Where links are pinned."""
        return self._root / "links"

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._object.maps[table].put(key, value)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._object.maps[table].get(key)

    def delete(self, table: str, key: bytes) -> bool:
        return self._object.maps[table].delete(key)

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        return self._object.maps[table].items()

    def batches(self, table: str) -> Iterator[Batch]:
        """A table of connections, some thousands of records at a time."""
        return (Batch(*found) for found in self._object.maps[table].buffers())

    def take(self, table: str, key: bytes) -> bytes | None:
        """Removes the value and answers it, in one step."""
        return self._object.maps[table].take(key)

    def put_new(self, table: str, key: bytes, value: bytes) -> bool:
        """Writes the value if there is none under the key; whether it did."""
        return self._object.maps[table].put_new(key, value)

    def capacity(self, table: str) -> int:
        """Entries that the table can hold."""
        return self._object.maps[table].max_entries

    def trace(self, key: bytes, traced: int) -> None:
        """Has the programs write into the ring buffer what telemetry learns, of `traced` of TRACES_ALL connections (pack_tracing).

        What is so already is left alone, so that no record is missed; else they tell of none until they have the whole key."""
        wanted = pack_tracing(key, traced)
        if any(self.get("settings", setting) != value for setting, value in wanted):
            for setting, value in (*pack_tracing(key, 0), wanted[0]):
                self.put("settings", setting, value)

    def set(self, setting: int, value: int) -> bool:
        """A setting of the programs (work.h, enum setting); whether it was another before."""
        key, packed = pack_setting(setting, value)
        changed = self.get("settings", key) != packed
        if changed:
            self.put("settings", key, packed)
        return changed

    def outdate(self) -> None:
        """What connections remember of routes, interfaces and tables is looked up again (clock.h). May be called from any thread."""
        with self._generations:
            generation = int.from_bytes(self.get("settings", pack_index(SETTING_GENERATION)) or b"", "little")
            self.set(SETTING_GENERATION, generation + 1)

    def ring(self) -> _bpf.Ring:
        """The reading end of the ring buffer of events."""
        return _bpf.Ring(self._object.maps["events"])

    def events_lost(self) -> int:
        """Events that found the ring buffer full, since it was made."""
        return sum(int.from_bytes(one, "little") for one in self._object.maps["events_lost"].get_per_cpu(bytes(4)))

    def counters(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(hook, reason) -> packets and bytes since the maps were made; what never happened is left out."""
        counters, out = self._object.maps["counters"], {}
        for hook, hook_name in enumerate(HOOKS):
            for reason in REASONS:
                each = counters.get_per_cpu((hook * COUNTER_REASONS + reason.number).to_bytes(4, "little"))
                packets = sum(int.from_bytes(one[:8], "little") for one in each)
                if packets:
                    out[hook_name, reason.name] = packets, sum(int.from_bytes(one[8:], "little") for one in each)
        return out

    def ask(self, frame: bytes, ifindex: int) -> Asked:
        """Has a server of this node ask a client to move: `frame`, at the pod's interface, names their connection (moves.py)."""
        return Asked(self._object.programs["wharf_ask"].run(frame, ifindex=ifindex)[0])

    @property
    def has_former(self) -> bool:
        """Whether programs of another layout may be attached, which read other maps than these."""
        return bool(self._former())

    def replace_former(self, hold: Callable[[], AbstractContextManager[None]], switch: Callable[[Callable[[], None]], None]) -> Carried:
        """For when this layout's tables are written. While `hold` keeps the programs that hold TCP before all others, it carries connections
        over, lets `switch` put this process's programs in place of the former ones (it calls what it is given now and then), and removes other
        layouts' maps.

        OSError: a former layout's connections cannot be carried over, and nothing was switched; or (EAGAIN) the agent was stopped too often for
        too long, and it is to be tried again."""
        self._check_former()
        with hold():
            began = time.monotonic_ns()
            try:
                records = self._carry_and_switch(switch)
            finally:
                self._put_hold(0)
            held_ms = (time.monotonic_ns() - began) / 1e6
        for directory in self._former():
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
        return Carried(records, held_ms)

    def _check_former(self) -> None:
        """OSError when what is remembered cannot be carried over: before anything is held or written."""
        for path, mine, theirs in self._remembered():
            if theirs.key_size != mine.key_size:
                raise OSError(errno.EUCLEAN, f"{path}: its keys have {theirs.key_size} bytes and this release's {mine.key_size}, so open connections "
                              "cannot be carried over, and the former release's programs go on. Go back to that release, or drain the node's "
                              "connections and remove the directory")
            count = 0 if mine.forgets else sum(map(len, theirs.batches()))
            if count > mine.max_entries * ROOM:
                raise OSError(errno.ENOSPC, f"{path} holds {count} records of connections and this release's table {mine.max_entries}, too few to "
                              f"carry them over, so the former release's programs go on. Set agent.capacities.{mine.name} to {int(count / ROOM) + 1} "
                              "or more")

    def _carry_and_switch(self, switch: Callable[[Callable[[], None]], None]) -> int:
        for _ in range(HOLDS):
            self._held_until = 0
            try:
                self._prolong()
                time.sleep(SETTLE_S)
                records = 0
                for _, mine, theirs in self._remembered():
                    for written in mine.absorb(theirs, SEEN_AT):
                        records += written
                        self._prolong()
                switch(self._prolong)
                self._prolong()
            except Lapsed:
                continue
            for directory in self._former():  # Now, lest a successor takes these for newer than what the new programs write.
                for table in CONNECTION_TABLES:
                    (directory / table).unlink(missing_ok=True)
            return records
        raise OSError(errno.EAGAIN, f"the former release's tables were not taken over: in each of {HOLDS} tries the agent had no processor "
                      f"for more than {HOLD_NS / 1e9:.0f} s; it tries again. Give it more processor time if this stays")

    def _prolong(self) -> None:
        """Holds TCP for HOLD_NS from now on. Lapsed when it was not held until now."""
        before, self._held_until = self._held_until, time.monotonic_ns() + HOLD_NS
        self._put_hold(self._held_until)
        if before and time.monotonic_ns() > before:
            raise Lapsed

    def _remembered(self) -> Iterator[tuple[Path, _bpf.Map, _bpf.Map]]:
        """The former layouts' tables of connections: where it is, this layout's, that layout's."""
        for directory in self._former():
            for table in CONNECTION_TABLES:
                theirs = _bpf.Map.open(directory / table)
                if theirs is not None:
                    with closing(theirs):
                        yield directory / table, self._object.maps[table], theirs

    def _put_hold(self, time_ns: int) -> None:
        self.set(SETTING_HELD_UNTIL, time_ns)

    def _former(self) -> list[Path]:
        return [path for path in self._root.glob("maps-*") if path != self._maps]

    def unpin(self) -> None:
        """Removes all that is pinned, of every layout, and the directory itself. A map is gone once this process lets go of it, too."""
        for path in sorted(self._root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self._root.rmdir()

    def close(self) -> None:
        """Lets go of everything; what is pinned or attached lives on."""
        self._object.close()
