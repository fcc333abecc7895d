# The ring buffer's reading end, for extensions that read it without the interpreter's lock.
from wharfinger_dataplane cimport libbpf

cdef enum:
    ENOUGH = -125  # -ECANCELED: what no part of libbpf answers

# Called for each record, oldest first. 0: go on; ENOUGH: no more this time, the record at hand is taken.
ctypedef int (*record_taker)(void *context, void *record, size_t size) noexcept nogil

cdef struct reading:
    record_taker taker
    void *context

cdef class Ring:
    cdef libbpf.ring_buffer *handle
    cdef reading reading

    cdef int pass_to(self, record_taker taker, void *context) except -1
