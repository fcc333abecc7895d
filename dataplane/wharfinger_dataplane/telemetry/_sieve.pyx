# distutils: language = c
"""Records of the ring buffer, read where they lie: told apart, identified, and left if another setting had them told.

Rules:
- No interpreter's lock while records are read: it costs about 0.3 µs a record, whatever else the process does.
- A sieve holds KEPT_MAX records; then the ring keeps the rest until they were taken.
- Every record is counted once, by what became of it.
"""

from wharfinger_dataplane cimport core
from wharfinger_dataplane._bpf cimport ENOUGH, Ring
from wharfinger_dataplane.telemetry._identity cimport c_trace_of, is_kept, is_nameless, read_key

KEPT = KEPT_MAX


cdef int sift(void *context, void *record, size_t size) noexcept nogil:
    """One record, as the ring has it."""
    cdef state *s = <state *>context
    cdef const core.event *e = <const core.event *>record
    s.seen.records += 1
    if size != sizeof(core.event) or not is_known(e):
        s.seen.unreadable += 1
        return 0
    if is_nameless(e):
        s.seen.unidentified += 1
        return 0
    s.record[s.kept].trace = c_trace_of(&s.key, e)
    if not is_kept(s.record[s.kept].trace.low, s.traced):
        s.seen.sampled_out += 1
        return 0
    s.record[s.kept].event = e[0]
    s.kept += 1
    return ENOUGH if s.kept == KEPT_MAX else 0


cdef inline bint is_known(const core.event *e) noexcept nogil:
    return (core.EVENT_BALANCED <= e.kind <= core.EVENT_CLOSED and core.ROLE_CLIENT <= e.role <= core.ROLE_SERVER
            and e.reason < core.REASON_COUNT)


cdef class Sieve:
    """The agent's reader of struct event. Keeps nothing of a connection: a closing record carries all its times."""

    def __init__(self, bytes key, uint64_t traced):
        """`key` and `traced` are what the programs decide by (pack_tracing). ValueError when `key` has not 16 bytes."""
        read_key(&self.state.key, key)
        self.state.traced = traced

    def fill_from(self, Ring ring) -> bool:
        """Takes records of the ring until none is left, or the sieve is full: whether there may be more."""
        self.check_room()
        return bool(ring.pass_to(sift, &self.state))

    def fill(self, records) -> list:
        """Takes records given as bytes until none is left, or the sieve is full; answers those that are left."""
        cdef bytes record
        self.check_room()
        for n, record in enumerate(records):
            if sift(&self.state, <char *>record, len(record)) == ENOUGH:
                return records[n + 1:]
        return []

    cdef int check_room(self) except -1:
        if self.state.kept == KEPT_MAX:
            raise ValueError("the sieve is full: take its records first")
        return 0

    def seen(self) -> dict:
        """Records by what became of them, since the start. `sampled_out`: told under other settings, before the agent's last start;
        `unidentified`: the end of a connection whose beginning its server never saw; `unreadable`: of another size, or with numbers that this
        version does not know, as a ring buffer adopted from another version may hold."""
        return self.state.seen
