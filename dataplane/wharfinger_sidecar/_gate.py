"""The start gate as a state machine without input or output; time is an argument, in seconds of any monotonic clock.

Rules
- A question is one datagram, MAGIC and six random bytes. The translator's program sends it straight back, unchanged.
- A question is asked at once, and again after every RETRY_S without an answer: each is lost where no program is attached.
- The answer opens the gate: the pod's packets pass the translator from now on, so its first SYN will be aware.
- At the deadline the gate opens too: a pod that starts unaware is better than a pod that does not start.
- The first outcome stands.

Source: docs/architecture.md, "Kubernetes": the sidecar.
"""

from __future__ import annotations

GATE_ADDRESS = ("169.254.87.70", 22342)
"""Where to ask (IPv4 address, UDP port): link-local, "WF" in both numbers. Nobody listens there: the program answers on the way."""

MAGIC = b"wharfinger"
NONCE_BYTES = 6
RETRY_S = 0.05

AWARE = "aware"
UNAWARE = "unaware"


class Gate:
    """One pod's wait for its translator.

    `nonce` is NONCE_BYTES random bytes, `now` the time of the first question, `timeout_s` how long to wait for an answer.
    `outcome` is None, then AWARE or UNAWARE; `waited_s` the seconds from `now` to it; `questions` counts the datagrams sent.
    """

    def __init__(self, nonce: bytes, now: float, timeout_s: float) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"the start gate's nonce has {len(nonce)} bytes, must have {NONCE_BYTES}")
        self.question = MAGIC + nonce
        self.outcome: str | None = None
        self.waited_s = 0.0
        self.questions = 0
        self._started = now
        self._deadline = now + timeout_s
        self._next = now

    def ask(self, now: float) -> bytes | None:
        """The datagram to send now, or None when none is due. Call it whenever `wait_s` has passed."""
        if self.outcome is not None:
            return None
        if now >= self._deadline:
            self._decide(UNAWARE, now)
            return None
        if now < self._next:
            return None
        self.questions += 1
        self._next = now + RETRY_S
        return self.question

    def hear(self, datagram: bytes, now: float) -> None:
        """Take a datagram that came back. Anything but the very question is somebody else's and changes nothing."""
        if self.outcome is None and datagram == self.question:
            self._decide(AWARE, now)

    def wait_s(self, now: float) -> float:
        """Seconds to listen before `ask` has something to say; 0 once the outcome is known."""
        if self.outcome is not None:
            return 0.0
        return max(0.0, min(self._next, self._deadline) - now)

    def _decide(self, outcome: str, now: float) -> None:
        self.outcome = outcome
        self.waited_s = now - self._started
