"""How many traces are kept. Which ones the programs decide, by one function of the trace id (trace.h, is_told), the same on all sides of a
connection, so that a trace is kept whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._records import TRACES_ALL


@dataclass(frozen=True)
class Sampling:
    """`traced` of TRACES_ALL: 0 is none."""

    traced: int

    @classmethod
    def of_ratio(cls, ratio: float) -> Sampling:
        """The share 0.0 to 1.0 of all traces; ValueError outside."""
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"{ratio} is not a ratio from 0 to 1")
        return cls(round(ratio * TRACES_ALL))

    @property
    def wanted(self) -> bool:
        """Whether any trace is kept."""
        return self.traced > 0


_FIXED = {"always_on": 1.0, "parentbased_always_on": 1.0, "always_off": 0.0, "parentbased_always_off": 0.0}
_RATIOS = ("traceidratio", "parentbased_traceidratio")


def sampling_from(environment: Mapping[str, str]) -> Sampling:
    """Of OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG; every trace when unset. A connection has no parent, so parent-based samplers are
    their root. ValueError names the variable and what it may be."""
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    if name in _FIXED:
        return Sampling.of_ratio(_FIXED[name])
    if name not in _RATIOS:
        raise ValueError(f"OTEL_TRACES_SAMPLER is {name!r}: must be one of {', '.join([*_FIXED, *_RATIOS])}")
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        return Sampling.of_ratio(float(text))
    except ValueError as error:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is {text!r}: must be a number from 0 to 1, the share of connections to trace") from error
