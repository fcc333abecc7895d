from libc.stdint cimport uint8_t, uint64_t

from wharfinger_dataplane cimport core
from wharfinger_dataplane.telemetry._identity cimport identity

cdef enum:
    KEPT_MAX = 512

cdef struct kept_record:
    core.event event
    uint8_t trace[16]

cdef struct counts:
    uint64_t records, sampled_out, unidentified, unreadable

cdef struct state:
    identity identity
    uint64_t threshold
    counts seen
    int kept
    kept_record record[KEPT_MAX]

cdef class Sieve:
    cdef state state

    cdef int check_room(self) except -1
