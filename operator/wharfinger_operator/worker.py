"""The single worker: something changed -> plan -> apply, until nothing is left to do.

Every hour it begins with a new planner: the Events whose cause still stands are due again, and should a planner ever have missed something,
it is not for long.

The first change after a quiet time is planned at once; further ones are gathered for the debounce time, or for as long as planning took
when that is longer, so that a storm of changes costs at most half of a core.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from .apply import EVENT_AGAIN_S, Applier
from .plan import Plan
from .planner import Planner
from .retire import retire
from .snapshot import Snapshot

ANEW_S = EVENT_AGAIN_S + 60
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0


class Worker:
    """Plans and applies. `clock` gives the time; `debounce_s` is the least time between the beginnings of two plans; `pool_grace_s` what the
    connections of a deleted pool have."""

    def __init__(self, snapshot: Snapshot, applier: Applier, clock: Callable[[], datetime], debounce_s: float, pool_grace_s: float = 60.0) -> None:
        self._snapshot = snapshot
        self._applier = applier
        self._clock = clock
        self._debounce_s = debounce_s
        self._pool_grace_s = pool_grace_s
        self._planner, self._anew_at = Planner(snapshot), float("-inf")
        self._dirty = asyncio.Event()
        self._noticed_ns: int | None = None
        self._retry_s = RETRY_FIRST_S
        self.look_again: datetime | None = None

    def notify(self) -> None:
        """Something changed that a plan could depend on."""
        if self._noticed_ns is None:
            self._noticed_ns = time.time_ns()
        self._dirty.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wait()
            began = time.monotonic()
            self._dirty.clear()
            noticed, self._noticed_ns = self._noticed_ns or time.time_ns(), None
            version = self._snapshot.changes
            made = self._plan(began)
            took = time.monotonic() - began
            complete = await self._applier.apply(made, noticed)
            retirement = retire(self._planner.index, self._clock(), self._pool_grace_s)
            complete &= await self._applier.retire(retirement)
            self.look_again = min((moment for moment in (made.look_again, retirement.look_again) if moment), default=None)
            if self._snapshot.changes != version:
                self._dirty.set()  # Own writes, too: the next plan may use what they freed.
            await self._pause(complete, max(self._debounce_s, took) - (time.monotonic() - began))

    def _plan(self, began: float) -> Plan:
        if began >= self._anew_at:
            self._planner, self._anew_at = Planner(self._snapshot), began + ANEW_S
            self._snapshot.follower = self._planner.see
        made = self._planner.plan(self._clock())
        self._applier.telemetry.counts.planned(time.monotonic() - began)
        return made

    async def _wait(self) -> None:
        """Until something changes, or the time comes at which the plan wanted to look again."""
        if self.look_again is None:
            await self._dirty.wait()
            return
        seconds = (self.look_again - self._clock()).total_seconds()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._dirty.wait()
        except TimeoutError:
            self._noticed_ns = None

    async def _pause(self, complete: bool, rest_s: float) -> None:
        if complete:
            self._retry_s = RETRY_FIRST_S
            await asyncio.sleep(max(0.0, rest_s))
            return
        self._applier.telemetry.counts.incomplete += 1
        structlog.get_logger().info("not all could be written; planning again", after_s=self._retry_s)
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, RETRY_MOST_S)
        self._dirty.set()
