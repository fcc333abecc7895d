"""Conditions as the Gateway API has them: a transition time that moves only when the status does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from wharfinger_api import Condition

from .resolve import Fault

MESSAGE_LIMIT = 4096
"""maxLength of a condition's message in crds/*.yaml."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one aspect of an object."""

    type: str
    holds: bool
    reason: str
    message: str


def judged(aspect: str, fault: Fault | None, otherwise: str) -> Verdict:
    """False for the fault's reason, or else True with the aspect's own name as reason."""
    return Verdict(aspect, True, aspect, otherwise) if fault is None else Verdict(aspect, False, fault.reason, fault.message)


def joined(faults: Iterable[Fault]) -> Fault | None:
    """Several faults as one, under the first one's reason."""
    faults = list(faults)
    return Fault(faults[0].reason, "; ".join(fault.message for fault in faults)) if faults else None


def conditions(verdicts: Iterable[Verdict], previous: Iterable[Condition], generation: int,
               clock: Callable[[], datetime]) -> tuple[Condition, ...]:
    """The verdicts as conditions on `generation`, keeping the transition time of those whose status is as it was; `clock` is asked for others."""
    before = {condition.type: condition for condition in previous}
    made = []
    for verdict in verdicts:
        status, old = "True" if verdict.holds else "False", before.get(verdict.type)
        since = old.last_transition_time if old is not None and old.status == status else clock().replace(microsecond=0)
        message = verdict.message if len(verdict.message) <= MESSAGE_LIMIT else verdict.message[:MESSAGE_LIMIT - 3] + "..."
        made.append(Condition(type=verdict.type, status=status, reason=verdict.reason, message=message,
                              last_transition_time=since, observed_generation=generation))
    return tuple(made)
