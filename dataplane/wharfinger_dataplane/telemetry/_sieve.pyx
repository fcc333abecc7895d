# distutils: language = c
"""Records of the ring buffer, read where they lie: told apart, identified, sampled; only those of the sample are copied.

Rules:
- No interpreter's lock while records are read: it costs about 0.3 µs a record, whatever else the process does.
- A sieve holds KEPT_MAX records of the sample; then the ring keeps the rest until they were taken.
- Every record is counted once, by what became of it.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from wharfinger_dataplane cimport core
from wharfinger_dataplane._bpf cimport ENOUGH, Ring
from wharfinger_dataplane.telemetry._identity cimport start_identity, trace_of
from wharfinger_dataplane.telemetry._sampling import MASK

KEPT = KEPT_MAX
cdef uint64_t RANDOM = MASK


cdef inline uint64_t be64(const uint8_t *at) noexcept nogil:
    cdef uint64_t word = 0
    cdef int n
    for n in range(8):
        word = word << 8 | at[n]
    return word


cdef int sift(void *context, void *record, size_t size) noexcept nogil:
    """One record, as the ring has it."""
    cdef state *s = <state *>context
    cdef const core.event *e = <const core.event *>record
    cdef uint8_t trace[16]
    s.seen.records += 1
    if size != sizeof(core.event) or not is_known(e):
        s.seen.unreadable += 1
        return 0
    if e.kind == core.EVENT_CLOSED and not e.isn and not e.established_ns:
        s.seen.unidentified += 1
        return 0
    trace_of(&s.identity, e, trace)
    if be64(trace + 8) & RANDOM < s.threshold:
        s.seen.sampled_out += 1
        return 0
    s.record[s.kept].event = e[0]
    memcpy(s.record[s.kept].trace, trace, 16)
    s.kept += 1
    return ENOUGH if s.kept == KEPT_MAX else 0


cdef inline bint is_known(const core.event *e) noexcept nogil:
    return (core.EVENT_BALANCED <= e.kind <= core.EVENT_CLOSED and core.ROLE_CLIENT <= e.role <= core.ROLE_SERVER
            and e.reason < core.REASON_COUNT)


cdef class Sieve:
    """The agent's reader of struct event. Keeps nothing of a connection: a closing record carries all its times."""

    def __init__(self, bytes key, uint64_t threshold):
        """`threshold`: as Sampling has it. ValueError when `key` is longer than 64 bytes."""
        start_identity(&self.state.identity, key)
        self.state.threshold = threshold

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
        """Records by what became of them, since the start. `sampled_out`: not in the sample; `unidentified`: the end of a connection whose
        beginning its server never saw (an entry rebuilt in mid-stream), so that nobody can name its trace; `unreadable`: of another size,
        or with numbers that this version does not know, as a ring buffer adopted from another version may hold."""
        return self.state.seen
