"""Trace identity (docs/protocol.md, "Trace identity"): ids that client, balancer and server each compute alone, and so agree on.

Rules:
- All that is hashed is in the connection's SYN or in the pool's slices: nothing is added to any packet for it.
- Encodings are fixed and big-endian; changing one changes the protocol, for agents of two versions would no longer agree.
- Addresses are the 16 bytes of struct addr (types.h): an IPv4 address is mapped into IPv6.
- Trace ids are keyed: who sees packets must not be able to tell or choose a connection's trace. Span ids follow from the trace id.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from .._records import EventRole

KEY_BYTES = range(16, 65)
"""Lengths that a key may have: 128 bits at least, and what blake2b takes (RFC 7693, section 2.1)."""

CONNECTION = Struct(">B16sHIHI")
"""protocol, client address, client port, scope, X, client ISN: 29 bytes."""

SPAN = Struct(">16sB16sH")
"""trace id, role (work.h, enum role), server address or zeros, port: 35 bytes."""

UNKNOWN_ADDRESS = bytes(16)

_RECORD = Struct("<24x16s32xII16xB7x")
_RECORD_PORTS = Struct(">84xHH16x")
RECORD_BYTES = 104
"""Bytes of struct event (work.h). What is read of it here is compared with the engine's own reading in tests/unit/telemetry."""
if not _RECORD.size == _RECORD_PORTS.size == RECORD_BYTES:
    raise AssertionError("the record's layout does not have the size of struct event")


def trace_id(key: bytes, protocol: int, client: bytes, client_port: int, scope: int, redirect_port: int, isn: int) -> int:
    """128 bits, never 0. `protocol` as in the IP header, `client` 16 bytes, `redirect_port` is X, `isn` the client's initial sequence
    number. ValueError when `key` is longer than 64 bytes.
    """
    return _keyed(key, CONNECTION.pack(protocol, client, client_port, scope, redirect_port, isn))


def trace_id_of_record(key: bytes, record: bytes) -> int:
    """`trace_id` of the connection that a record of the ring buffer is about; struct.error when it has not the size of struct event."""
    client, scope, isn, protocol = _RECORD.unpack(record)
    client_port, redirect_port = _RECORD_PORTS.unpack(record)
    return _keyed(key, CONNECTION.pack(protocol, client, client_port, scope, redirect_port, isn))


def span_id(trace: int, role: EventRole, server: bytes, port: int) -> int:
    """64 bits, never 0. The client's span has no server and port X, the balancer's the server and X, the server's the server and Y."""
    digest = blake2b(SPAN.pack(trace.to_bytes(16, "big"), role, server, port), digest_size=8, person=b"wharfinger-span").digest()
    return int.from_bytes(digest, "big") or 1


def _keyed(key: bytes, connection: bytes) -> int:
    return int.from_bytes(blake2b(connection, digest_size=16, key=key, person=b"wharfinger-trace").digest(), "big") or 1
