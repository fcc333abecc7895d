# distutils: language = c
"""Trace identity (trace.h; docs/protocol.md, "Trace identity") for who looks for a connection's trace: keys are 16 bytes, ids are numbers."""

from hashlib import blake2b

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from wharfinger_dataplane cimport core

SECRET_BYTES = range(16, 65)
"""Lengths that the cluster's secret may have: 128 bits at least, and what blake2b takes as a key (RFC 7693, section 2.1)."""


def key_of(bytes secret) -> bytes:
    """The 16 bytes of the key, of a secret of 16 to 64 bytes."""
    return blake2b(key=secret, digest_size=16, person=b"wharfinger-trace").digest()


cdef int read_key(trace_id *key, bytes packed) except -1:
    if len(packed) != 16:
        raise ValueError(f"a key of {len(packed)} bytes; a hashed key (key_of) has 16")
    key.low, key.high = int.from_bytes(packed[:8], "little"), int.from_bytes(packed[8:], "little")
    return 0


cdef const core.event *event_in(bytes record) except NULL:
    if <size_t>len(record) != sizeof(core.event):
        raise ValueError(f"a record of {len(record)} bytes where the structure has {sizeof(core.event)}")
    return <const core.event *><const char *>record


cdef core.addr address_in(bytes packed) except *:
    cdef core.addr a
    if len(packed) != 16:
        raise ValueError(f"an address of {len(packed)} bytes; struct addr has 16")
    memcpy(&a, <const char *>packed, 16)
    return a


cdef object trace_of(bytes key, const core.event *e):
    cdef trace_id words
    read_key(&words, key)
    words = c_trace_of(&words, e)
    return (<object>words.high) << 64 | words.low


def trace_of_connection(bytes key, uint8_t protocol, bytes client, uint16_t client_port, uint32_t scope, uint16_t redirect_port,
                        uint32_t isn) -> int:
    """128 bits, never 0. `protocol` as in the IP header, `client` 16 bytes, `redirect_port` is X, `isn` the client's initial sequence number.
    ValueError when `key` or `client` has not 16 bytes.
    """
    cdef core.event e
    memset(&e, 0, sizeof(e))
    e.proto, e.scope, e.isn, e.client = protocol, scope, isn, address_in(client)
    e.client_port, e.redirect_port = core.to_be16(client_port), core.to_be16(redirect_port)
    return trace_of(key, &e)


def trace_of_record(bytes key, bytes record) -> int:
    """The trace of the connection that a record of the ring buffer is about; ValueError when it has not the size of struct event."""
    return trace_of(key, event_in(record))


def is_told(bytes key, bytes record, uint64_t traced) -> bool:
    """Whether the programs tell of it when `traced` of TRACES_ALL are kept; ValueError as above."""
    cdef trace_id words
    read_key(&words, key)
    return c_is_told(&words, event_in(record), traced)


def span_id(trace, uint8_t role, bytes server, uint16_t port) -> int:
    """64 bits, never 0. The client's span has no server (zeros) and port X, the balancer's the server and X, the server's the server and Y."""
    cdef trace_id words
    cdef core.addr a = address_in(server)
    words.high, words.low = divmod(trace, 1 << 64)
    return c_span_of(&words, role, &a, core.to_be16(port))
