from libc.stdint cimport uint16_t, uint64_t

from wharfinger_dataplane cimport core

cdef extern from "trace.h" nogil:
    cdef struct trace_id:
        uint64_t low, high
    trace_id c_trace_of "trace_of"(const trace_id *key, const core.event *e)
    uint64_t c_span_of "span_of"(const trace_id *trace, int role, const core.addr *server, uint16_t port)
    bint c_is_told "is_told"(const trace_id *key, const core.event *e, uint64_t traced)
    bint is_kept(uint64_t low, uint64_t traced)
    bint is_nameless(const core.event *e)

cdef int read_key(trace_id *key, bytes packed) except -1
