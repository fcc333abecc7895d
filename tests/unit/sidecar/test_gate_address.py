"""The sidecar imports nothing of the data plane, so the gate's address stands twice: here the two are one."""

from __future__ import annotations

from wharfinger_dataplane._records import GATE
from wharfinger_sidecar._gate import GATE_ADDRESS


def test_the_sidecar_asks_whom_the_programs_answer():
    assert GATE_ADDRESS == GATE
