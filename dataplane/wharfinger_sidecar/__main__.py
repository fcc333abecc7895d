"""`python3 -m wharfinger_sidecar` is the sidecar; `python3 -m wharfinger_sidecar gate` is its container's postStart hook.

Why a postStart hook: the kubelet starts the pod's next container once this one counts as started. It runs the hook in the
same pass that started the container, and without a startupProbe "started" is "running and the hook has returned". So the
hook's end is the gate's opening, some milliseconds after the agent's attachment. A startupProbe would add its own worker's
tick (periodSeconds is at least 1) and, if it never succeeds, restarts the container for ever: it cannot let a pod start
unaware. (Kubernetes documentation, "Sidecar Containers" and "Container Lifecycle Hooks"; kubelet, kuberuntime_container.go,
computeInitContainerActions.)

The hook and the sidecar ask each for themselves: the answer has no state, and a hook's output is shown nowhere, while the
sidecar's goes to the container's log. The hook always ends with 0, as the kubelet kills the container otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from wharfinger_sidecar._gate import AWARE
from wharfinger_sidecar._log import log
from wharfinger_sidecar._wait import wait_for_gate

DEFAULT_TIMEOUT_S = 10.0
TIMEOUT_VARIABLE = "WHARFINGER_START_GATE_TIMEOUT_S"


def timeout_s() -> float:
    """The start gate's time-out in seconds, from the environment; a value that is no positive number is logged and not used."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        value = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        value = 0.0
    if 0.0 < value < float("inf"):
        return value
    log("setting not understood", level="warning", variable=TIMEOUT_VARIABLE, value=text, used_s=DEFAULT_TIMEOUT_S)
    return DEFAULT_TIMEOUT_S


def end(signum: int, _frame: FrameType | None) -> None:
    """End at once: the sidecar holds nothing. (A first process without a handler would ignore the signal.)"""
    log("ended", signal=signal.Signals(signum).name)
    sys.exit(0)


def stay() -> None:
    """The sidecar: pass the gate, say how it went, and stay until the kubelet ends the pod."""
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    gate = wait_for_gate(timeout_s())
    log("start gate passed", level="info" if gate.outcome == AWARE else "warning",
        outcome=str(gate.outcome), waited_ms=round(gate.waited_s * 1000, 1), questions=gate.questions)
    while True:
        signal.pause()


def main(arguments: list[str]) -> None:
    """Run the sidecar, or with the one argument `gate` its hook."""
    if not arguments:
        stay()
    elif arguments == ["gate"]:
        wait_for_gate(timeout_s())
    else:
        sys.exit(f"wharfinger_sidecar: unknown arguments {arguments}; give none for the sidecar, or `gate` for the hook")


if __name__ == "__main__":
    main(sys.argv[1:])
