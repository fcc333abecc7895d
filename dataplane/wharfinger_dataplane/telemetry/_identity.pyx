# distutils: language = c
"""Trace identity (docs/protocol.md, "Trace identity"): ids that client, balancer and server each compute alone, and so agree on.

Rules:
- All that is hashed is in the connection's SYN or in the pool's slices: nothing is added to any packet for it.
- Encodings are fixed and big-endian; changing one changes the protocol, for agents of two versions would no longer agree.
- Addresses are the 16 bytes of struct addr (types.h): an IPv4 address is mapped into IPv6.
- Trace ids are keyed: who sees packets must not be able to tell or choose a connection's trace. Span ids follow from the trace id.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from wharfinger_dataplane cimport core

KEY_BYTES = range(16, BLAKE2B_KEY_MAX + 1)
"""Lengths that a key may have: 128 bits at least, and what blake2b takes (RFC 7693, section 2.1)."""

TRACE_BYTES, SPAN_BYTES = 16, 8
cdef size_t TRACE = 16, SPAN = 8


cdef int start_identity(identity *i, bytes key) except -1:
    if len(key) > BLAKE2B_KEY_MAX:
        raise ValueError(f"a key of {len(key)} bytes; blake2b takes {BLAKE2B_KEY_MAX} at most")
    blake2b_start(&i.trace, <uint8_t>TRACE, <const uint8_t *><const char *>key, <uint8_t>len(key), b"wharfinger-trace")
    blake2b_start(&i.span, <uint8_t>SPAN, NULL, 0, b"wharfinger-span\0")
    return 0


cdef inline void put_be32(uint8_t *at, uint32_t n) noexcept nogil:
    at[0], at[1], at[2], at[3] = <uint8_t>(n >> 24), <uint8_t>(n >> 16), <uint8_t>(n >> 8), <uint8_t>n


cdef inline void take(const blake2b *started, const uint8_t *message, size_t size, uint8_t *out, size_t wanted) noexcept nogil:
    """An id of `wanted` bytes: the digest, but no id is zero."""
    cdef uint8_t digest[64]
    cdef uint8_t bits = 0
    cdef size_t n
    blake2b_digest(started, message, size, digest)
    for n in range(wanted):
        bits |= digest[n]
    if not bits:
        digest[wanted - 1] = 1
    memcpy(out, digest, wanted)


cdef void trace_of(const identity *i, const core.event *e, uint8_t *trace) noexcept nogil:
    """The 16 bytes of the id of the trace that `e` belongs to: of protocol, client address, client port, scope, X and client ISN."""
    cdef uint8_t message[29]
    message[0] = e.proto
    memcpy(message + 1, e.client.byte, 16)
    memcpy(message + 17, &e.client_port, 2)
    put_be32(message + 19, e.scope)
    memcpy(message + 23, &e.redirect_port, 2)
    put_be32(message + 25, e.isn)
    take(&i.trace, message, sizeof(message), trace, TRACE)


cdef void span_of(const identity *i, const uint8_t *trace, uint8_t role, const uint8_t *server, uint16_t port, uint8_t *span) noexcept nogil:
    """The 8 bytes of a span's id: of trace id, role, server address (zeros for the client's span) and port (big-endian as it stands)."""
    cdef uint8_t message[35]
    memcpy(message, trace, 16)
    message[16] = role
    memcpy(message + 17, server, 16)
    memcpy(message + 33, &port, 2)
    take(&i.span, message, sizeof(message), span, SPAN)


def trace_id(bytes key, uint8_t protocol, bytes client, uint16_t client_port, uint32_t scope, uint16_t redirect_port, uint32_t isn) -> int:
    """128 bits, never 0. `protocol` as in the IP header, `client` 16 bytes, `redirect_port` is X, `isn` the client's initial sequence
    number. ValueError when `key` is longer than 64 bytes or `client` has not 16.
    """
    cdef core.event e
    memset(&e, 0, sizeof(e))
    e.proto, e.scope, e.isn = protocol, scope, isn
    memcpy(e.client.byte, address(client), 16)
    e.client_port, e.redirect_port = core.to_be16(client_port), core.to_be16(redirect_port)
    return trace_id_of(key, &e)


def trace_id_of_record(bytes key, bytes record) -> int:
    """`trace_id` of the connection that a record of the ring buffer is about; ValueError when it has not the size of struct event."""
    if <size_t>len(record) != sizeof(core.event):
        raise ValueError(f"a record of {len(record)} bytes where the structure has {sizeof(core.event)}")
    return trace_id_of(key, <const core.event *><const char *>record)


cdef object trace_id_of(bytes key, const core.event *e):
    cdef identity i
    cdef uint8_t trace[16]
    start_identity(&i, key)
    trace_of(&i, e, trace)
    return int.from_bytes((<const char *>trace)[:TRACE], "big")


def span_id(trace, uint8_t role, bytes server, uint16_t port) -> int:
    """64 bits, never 0. The client's span has no server and port X, the balancer's the server and X, the server's the server and Y."""
    cdef identity i
    cdef uint8_t span[8]
    cdef bytes id = trace.to_bytes(TRACE, "big")
    start_identity(&i, b"")
    span_of(&i, <const uint8_t *><const char *>id, role, address(server), core.to_be16(port), span)
    return int.from_bytes((<const char *>span)[:SPAN], "big")


cdef const uint8_t *address(bytes packed) except NULL:
    if len(packed) != 16:
        raise ValueError(f"an address of {len(packed)} bytes; struct addr has 16")
    return <const uint8_t *><const char *>packed
