from libc.stdint cimport uint8_t, uint16_t, uint64_t

from wharfinger_dataplane cimport core

cdef extern from "blake2b.h" nogil:
    enum: BLAKE2B_KEY_MAX
    cdef struct blake2b:
        pass
    void blake2b_start(blake2b *b, uint8_t digest, const uint8_t *key, uint8_t key_size, const uint8_t *person)
    void blake2b_digest(const blake2b *started, const uint8_t *message, size_t size, uint8_t *out)

cdef struct identity:  # two hashes, started
    blake2b trace, span

cdef int start_identity(identity *i, bytes key) except -1
cdef void trace_of(const identity *i, const core.event *e, uint8_t *trace) noexcept nogil
cdef void span_of(const identity *i, const uint8_t *trace, uint8_t role, const uint8_t *server, uint16_t port, uint8_t *span) noexcept nogil
