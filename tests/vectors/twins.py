"""The two hosts of the core side by side: the programs as the kernel loaded them, by BPF_PROG_TEST_RUN, and the engine; and a
second engine that takes every packet through the whole chain, beside those two with their fast path.

All are filled by the same compile code, get the same frames, and must agree in reasons, bytes, events and connections.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support.lab import OBJECT, PROGRAMS, Store
from support.packets import at_hop, ends
from vectors.stacks import NUMBER as STACKS
from vectors.stacks import WINDOW, sockets
from vectors.vector import DROPPED, ISN, REDIRECTED, SERVER_ISN, UNCHANGED, Change, Step, Vector
from wharfinger_dataplane import _bpf, _engine
from wharfinger_dataplane._records import (
    COMPARABLE,
    SETTING_FULL,
    SETTING_LEFT_TO_STACK,
    TRACES_ALL,
    InterfaceBit,
    pack_flow_key,
    pack_index,
    pack_setting,
    pack_tracing,
)
from wharfinger_dataplane.kernel import CONNECTION_TABLES
from wharfinger_dataplane.tables import Tables
from wharfinger_dataplane.telemetry._identity import is_told

NEXT, SHOT, REDIRECT = -1, 2, 7  # TCX_NEXT, TC_ACT_SHOT, TC_ACT_REDIRECT
REASONS = {reason.name: reason for reason in _engine.REASONS}
KEY = bytes(range(16))
CONNECTIONS = CONNECTION_TABLES
EVENT_TIMES = 24  # struct event begins with three


@dataclass(frozen=True)
class Ran:
    """What a frame became in the kernel: the reasons that were counted, the verdict, the frame."""

    reasons: Mapping[str, int]
    verdict: int
    frame: bytes


class Twins:
    """`interfaces`: name -> index; `stacks`: the namespace that has the pods' sockets.

    Calls that run programs belong into the namespace of those interfaces."""

    def __init__(self, pins: Path, interfaces: Mapping[str, int], stacks: str, capacity: Mapping[str, int]) -> None:
        self.interfaces, self._stacks, self._capacity = interfaces, stacks, dict(capacity)
        self._now_ns = 1  # in the engines
        self.object = _bpf.Object(OBJECT, pins, max_entries={**dict.fromkeys(_engine.TABLES, 1024), **capacity})
        self.maps = self.object.maps
        self._programs = {hook: self.object.programs[name] for name, hook in PROGRAMS.items()}
        self._stride = self.maps["counters"].max_entries // len(_engine.HOOKS)
        self._counted: dict[str, dict[str, int]] = {}
        self._ring = _bpf.Ring(self.maps["events"])
        self.start()

    def trace(self, traced: int) -> None:
        """Has the programs tell of so many of TRACES_ALL connections."""
        self._traced = traced
        for setting, value in pack_tracing(KEY, traced):
            self.maps["settings"].put(setting, value)

    def start(self) -> None:
        """Both as if new."""
        for table in _engine.TABLES:
            self.forget(table)
        for turn in range(8):
            self.maps["turns"].put(pack_index(turn), bytes(4))
        self._ring.drain()
        self.trace(TRACES_ALL)
        self.engine, self.whole = (_engine.Engine(capacity=self._capacity) for _ in range(2))
        self._tables = (Tables(Store(self.maps)), Tables(self.engine), Tables(self.whole))
        for setting in (SETTING_FULL, SETTING_LEFT_TO_STACK):
            self.set(setting, 0)

    def fill(self, slices: Iterable | None, pods: Mapping, stacks: int = STACKS) -> None:
        for tables in self._tables:
            tables.put_interfaces({self.interfaces["u"]: InterfaceBit.DIRECT})
            if slices is not None:
                tables.apply(slices)
            for address, (interface, roles) in pods.items():
                tables.put_pod(address, self.interfaces[interface], roles, stacks)

    def forget(self, table: str) -> None:
        for key, _ in self.maps[table].items():
            self.maps[table].delete(key)

    def forget_connections(self) -> None:
        for table in CONNECTIONS:
            self.forget(table)
            self._forget_in_engines(table)

    def _forget_in_engines(self, table: str) -> None:
        for engine in (self.engine, self.whole):
            for key, _ in engine.items(table):
                engine.delete(table, key)

    def counts(self, hook: str) -> dict[str, int]:
        first = _engine.HOOKS.index(hook) * self._stride
        cells = {name: self.maps["counters"].get_per_cpu(pack_index(first + reason.number)) for name, reason in REASONS.items()}
        return {name: sum(int.from_bytes(cell[:8], "little") for cell in each) for name, each in cells.items()}

    def kernel(self, hook: str, interface: str, frame: bytes) -> Ran:
        before = self._counted.get(hook) or self.counts(hook)
        verdict, out, _ = self._programs[hook].run(frame, ifindex=self.interfaces[interface])
        self._counted[hook] = after = self.counts(hook)
        return Ran({name: n - before[name] for name, n in after.items() if n != before[name]}, verdict, out)

    def connections(self) -> tuple[dict, ...]:
        """Of the kernel and of the engines, times and ways aside."""

        def timeless(items: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
            return {key: value[:COMPARABLE] for key, value in items}

        sources = (lambda table: self.maps[table].items()), self.engine.items, self.whole.items
        return tuple({table: timeless(items(table)) for table in CONNECTIONS} for items in sources)

    def _run_engines(self, hook: str, interface: str, frame: bytes) -> _engine.Result:
        """One frame through both engines, which must agree."""
        ifindex = self.interfaces[interface]
        result = self.engine.run(hook, frame, ifindex=ifindex, now_ns=self._now_ns)
        whole = self.whole.run(hook, frame, ifindex=ifindex, now_ns=self._now_ns, fast=False)
        assert result == whole, (hook, frame.hex())
        return result

    def both(self, hook: str, interface: str, frame: bytes) -> tuple[Ran, _engine.Result]:
        """One frame through both, which must agree."""
        ran = self.kernel(hook, interface, frame)
        result = self._run_engines(hook, interface, frame)
        expected = {result.reason.name, "option_malformed"} if result.malformed_option else {result.reason.name}
        stack = {name for name in ran.reasons if REASONS[name].outcome == "stack"}
        assert set(ran.reasons) - stack == expected
        assert set(ran.reasons.values()) == {1}
        forwarded = result.reason.outcome == "forward"
        assert not stack or forwarded or (result.reason.outcome, hook) == ("answer", "to_pod")
        assert ran.verdict == verdict(result.reason.outcome, bool(stack))
        assert ran.frame == (at_hop(result.packet) if forwarded and not stack else result.packet)
        kernel, engine, whole = self.connections()
        assert (kernel, engine) == (engine, whole)
        told = [result.event[EVENT_TIMES:]] if result.event and is_told(KEY, result.event, self._traced) else []
        assert [event[EVENT_TIMES:] for event in self._ring.drain()] == told
        return ran, result

    def sweep(self, frames: Iterable[tuple[str, str, bytes]]) -> list[tuple[bytes, _engine.Result]]:
        """Many frames through both: they must agree in each verdict and each octet, and at the end in what was counted and remembered."""
        before, seen, out = {hook: self.counts(hook) for hook in _engine.HOOKS}, {hook: Counter() for hook in _engine.HOOKS}, []
        for hook, interface, frame in frames:
            ifindex = self.interfaces[interface]
            code, changed, _ = self._programs[hook].run(frame, ifindex=ifindex)
            result = self._run_engines(hook, interface, frame)
            direct = result.reason.outcome == "forward" and code == REDIRECT
            assert code == verdict(result.reason.outcome, not direct), (hook, result.reason.name, frame.hex())
            assert changed == (at_hop(result.packet) if direct else result.packet), (hook, result.reason.name, frame.hex())
            seen[hook][result.reason.name] += 1
            seen[hook]["option_malformed"] += result.malformed_option
            out.append((frame, result))
        for hook in _engine.HOOKS:
            counted = {name: n - before[hook][name] for name, n in self.counts(hook).items() if REASONS[name].outcome != "stack"}
            assert Counter(counted) == seen[hook]
        self._counted.clear()
        self._ring.drain()
        kernel, engine, whole = self.connections()
        assert kernel == engine == whole
        return out

    def step(self, step: Step) -> None:
        ran, result = self.both(step.hook, step.interface, step.frame)
        assert result.reason.name == step.reason, (step.hook, step.interface, "want", step.reason, "got", result.reason.name)
        assert result.malformed_option == step.malformed
        assert step.tells in (None, result.event is not None)
        if result.reason.outcome == "forward" or (result.reason.outcome, step.hook) == ("answer", "to_pod"):
            assert {name for name in ran.reasons if REASONS[name].outcome == "stack"} == {step.way} - {REDIRECTED}
        if step.out == DROPPED:
            assert ran.verdict == SHOT
        else:
            out = step.frame if step.out is UNCHANGED else step.out
            assert result.packet in out if isinstance(out, tuple) else result.packet == out

    def play(self, vector: Vector) -> None:
        self.start()
        self.fill(vector.slices, vector.pods)
        with ExitStack() as held:
            self._hold(vector.held, held)
            for step in vector.steps:
                if isinstance(step, Step):
                    self.step(step)
                else:
                    self._change(step, held)

    def _hold(self, held: Iterable[tuple], until: ExitStack) -> None:
        whole = [(local, peer, *(numbers or (ISN + 1, SERVER_ISN + 1))) for local, peer, *numbers in held]
        until.enter_context(sockets(self._stacks, whole))
        for local, peer, expects, sends in whole:
            for engine in (self.engine, self.whole):
                engine.hold(pack_flow_key(*ends(local, peer)), expects, sends, window=WINDOW)

    def _change(self, change: Change, held: ExitStack) -> None:
        time.sleep(change.pause_s)
        self._now_ns += int(change.pause_s * 1e9)
        self.fill(change.slices, change.pods, STACKS if change.seen else -1)
        self._hold(change.held, held)
        for table in change.forget:
            self.forget(table)
            self._forget_in_engines(table)
        for setting, value in change.settings.items():
            self.set(setting, value)

    def set(self, setting: int, value: int) -> None:
        """A setting of all of them."""
        self.maps["settings"].put(*pack_setting(setting, value))
        for engine in (self.engine, self.whole):
            engine.set(setting, value)

    def close(self) -> None:
        self.object.close()


def verdict(outcome: str, to_stack: bool) -> int:
    if outcome == "drop":
        return SHOT
    if outcome in ("reflect", "answer") or (outcome == "forward" and not to_stack):
        return REDIRECT
    return NEXT
