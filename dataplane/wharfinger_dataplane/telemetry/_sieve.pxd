from libc.stdint cimport uint64_t

from wharfinger_dataplane cimport core
from wharfinger_dataplane.telemetry._identity cimport trace_id

cdef enum:
    KEPT_MAX = 512

cdef struct kept_record:
    core.event event
    trace_id trace

cdef struct counts:
    uint64_t records, sampled_out, unidentified, unreadable

cdef struct state:
    trace_id key
    uint64_t traced
    counts seen
    int kept
    kept_record record[KEPT_MAX]

cdef class Sieve:
    cdef state state

    cdef int check_room(self) except -1
