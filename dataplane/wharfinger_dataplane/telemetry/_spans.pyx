# distutils: language = c
"""Records of the sample to spans, as the bytes that OTLP has for them (opentelemetry/proto/trace/v1/trace.proto, message Span).

Rules:
- The client's span is the root, the balancer's its child, the server's the balancer's child; each side computes all ids alone (trace.h).
- Times are the kernel's; only the offset from its monotonic clock to wall time is ours.
- Attributes are OpenTelemetry's semantic conventions (client, server, network) as the role's application sees them, and wharfinger.*.
  What is not known is left out.
- The SDK's objects cost 70 µs a span, these bytes 2 µs, and 0.7 µs when the same client reached the same server before: a tenth of 5,000
  connections a second is 1,500 spans.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from wharfinger_dataplane cimport core
from wharfinger_dataplane._records import unpack_address
from wharfinger_dataplane.telemetry._identity cimport c_span_of
from wharfinger_dataplane.telemetry._sieve cimport Sieve, kept_record

cdef extern from "endian.h" nogil:
    uint64_t htobe64(uint64_t n)

cdef extern from "protobuf.h" nogil:
    cdef struct protobuf:
        uint8_t *at
        uint8_t *end
        uint32_t left_out
    uint8_t *pb_put_varint(uint8_t *at, uint64_t n)
    size_t pb_varint_size(uint64_t n)
    size_t pb_bytes_size(size_t size)
    void pb_bytes(protobuf *b, int field, const void *bytes, size_t size)
    void pb_varint(protobuf *b, int field, uint64_t n)
    void pb_fixed64(protobuf *b, int field, uint64_t n)
    void pb_fixed32(protobuf *b, int field, uint32_t n)
    void pb_fields(protobuf *b, const void *fields, size_t size)
    void pb_text(protobuf *b, int field, const char *key, const char *text, size_t size)
    void pb_number(protobuf *b, int field, const char *key, uint64_t n)

cdef enum:  # fields of message Span, and of ScopeSpans the one that holds spans
    TRACE_ID = 1, SPAN_ID = 2, PARENT = 4, NAME = 5, KIND = 6, START = 7, END = 8, ATTRIBUTE = 9, LEFT_OUT = 10, EVENT = 11, FLAGS = 16
    SPANS = 2
    SAMPLED = 0x001, HAS_IS_REMOTE = 0x100, IS_REMOTE = 0x200
    FRAME = 4  # bytes for the tag and the length before a span
    SPAN_MAX = 8192
    OWN = 256  # bytes kept for what is the connection's own: ids, times, the client's port
    REMEMBERED = 4096

ROLES = ((b"", 0), (b"client", 3), (b"balancer", 1), (b"server", 2))
"""Of each role: its name, and its kind of span (SPAN_KIND_CLIENT, _INTERNAL, _SERVER)."""

cdef core.addr nobody
memset(&nobody, 0, sizeof(nobody))


cdef class Party:
    """Whose an address is, as bytes; empty when unknown."""

    cdef bytes text, name, node

    def __init__(self, str address, pod):
        self.text = address.encode()
        self.name = pod.name.encode() if pod else b""
        self.node = pod.node.encode() if pod else b""


cdef class Pool:
    """Which pool a scope is, as bytes; empty when unknown."""

    cdef bytes name, address

    def __init__(self, pool, address):
        self.name = pool.name.encode() if pool else b""
        self.address = address.encode() if address else b""


cdef class Likeness:
    """What spans have in common that differ by the connection's own alone: name and kind, and attributes; how many of these found no room."""

    cdef bytes named, attributes
    cdef uint32_t left_out


NOBODY = Party("", None)


cdef class SpanWriter:
    """Makes the spans of a sieve. `reasons`: (name, words) by number; what `names` answers is remembered until it has been updated."""

    cdef object names
    cdef list reasons
    cdef Sieve sieve
    cdef object version
    cdef dict parties, pools, likenesses
    cdef uint8_t buffer[SPAN_MAX]

    def __init__(self, Sieve sieve, names, reasons):
        self.sieve, self.names = sieve, names
        self.reasons = [(name.encode(), words.encode()) for name, words in reasons]
        self.forget()

    cdef void forget(self):
        self.version, self.parties, self.pools, self.likenesses = self.names.version, {}, {}, {}

    def take(self, long long offset_ns) -> list:
        """Empties the sieve: its spans, each as a field of ScopeSpans. `offset_ns`: wall clock (since 1970) minus monotonic clock."""
        if self.version is not self.names.version or len(self.parties) > REMEMBERED or len(self.likenesses) > REMEMBERED:
            self.forget()
        cdef int n
        spans = [self.write(&self.sieve.state.record[n], <uint64_t>offset_ns) for n in range(self.sieve.state.kept)]
        self.sieve.state.kept = 0
        return spans

    cdef bytes write(self, const kept_record *k, uint64_t offset_ns):
        cdef const core.event *e = &k.event
        cdef Likeness alike = self.likeness(e)
        cdef protobuf b
        cdef uint64_t own, parent
        cdef uint64_t[2] trace
        trace[0], trace[1] = k.trace.high, k.trace.low
        b.at, b.end, b.left_out = self.buffer + FRAME, self.buffer + SPAN_MAX, alike.left_out
        cdef bint has_parent = span_ids(k, &own, &parent)
        put_id(&b, TRACE_ID, trace, 2)
        put_id(&b, SPAN_ID, &own, 1)
        if has_parent:
            put_id(&b, PARENT, &parent, 1)
        pb_fields(&b, <const char *>alike.named, len(alike.named))
        pb_fixed64(&b, START, (e.started_ns or e.time_ns) + offset_ns)
        pb_fixed64(&b, END, e.time_ns + offset_ns)
        number(&b, b"client.port", e.client_port)
        if e.role == core.ROLE_SERVER:
            number(&b, b"network.peer.port", e.client_port)
        pb_fields(&b, <const char *>alike.attributes, len(alike.attributes))
        if b.left_out:
            pb_varint(&b, LEFT_OUT, b.left_out)
        if e.established_ns:
            put_established(&b, e.established_ns + offset_ns)
        pb_fixed32(&b, FLAGS, SAMPLED | HAS_IS_REMOTE | (IS_REMOTE if has_parent else 0))
        return framed(self.buffer + FRAME, b.at)

    cdef Likeness likeness(self, const core.event *e):
        """Of `e` and all that differ from it in times, client's port and ISN, and pod's interface only."""
        cdef core.event common = e[0]
        common.time_ns = common.started_ns = common.established_ns = 0
        common.client_port, common.isn, common.ifindex = 0, 0, 0
        cdef bytes key = (<const char *>&common)[:sizeof(common)]
        found = self.likenesses.get(key)
        if found is None:
            found = self.likenesses[key] = self.described(e)
        return found

    cdef Likeness described(self, const core.event *e):
        cdef protobuf b
        cdef Likeness alike = Likeness()
        cdef Party client = self.party(&e.client), server = self.party(&e.server)
        cdef Pool pool = self.pool(e.scope)
        cdef bytes virtual = self.party(&e.virtual).text or pool.address
        cdef bytes role
        cdef int kind
        role, kind = ROLES[e.role]
        cdef bytes name = role + b" " + end_point(virtual, core.from_be16(e.redirect_port))
        b.at, b.end, b.left_out = self.buffer, self.buffer + SPAN_MAX - FRAME - OWN, 0
        pb_bytes(&b, NAME, <const char *>name, len(name))
        pb_varint(&b, KIND, kind)
        alike.named = (<const char *>self.buffer)[:b.at - self.buffer]
        b.at, b.end = self.buffer, b.end - len(alike.named)
        self.put_attributes(&b, e, role, client, server, pool, virtual)
        alike.attributes, alike.left_out = (<const char *>self.buffer)[:b.at - self.buffer], b.left_out
        return alike

    cdef void put_attributes(self, protobuf *b, const core.event *e, bytes role, Party client, Party server, Pool pool, bytes virtual):
        """All but the client's port."""
        cdef bytes reason, words
        reason, words = self.reasons[e.reason]
        text(b, b"network.transport", b"tcp")
        text(b, b"network.type", b"ipv6" if b":" in client.text else b"ipv4")
        text(b, b"client.address", client.text)
        if e.role == core.ROLE_SERVER:  # where the application listens, and by which port the wire reaches it
            text(b, b"server.address", server.text)
            number(b, b"server.port", e.target_port)
            text(b, b"network.local.address", server.text)
            number(b, b"network.local.port", e.service_port)
            text(b, b"network.peer.address", client.text)
        else:  # what the application dialled, and whom the wire reaches
            text(b, b"server.address", virtual)
            number(b, b"server.port", e.redirect_port)
            text(b, b"network.peer.address", server.text)
            number(b, b"network.peer.port", e.service_port or e.redirect_port)
        text(b, b"wharfinger.role", role)
        text(b, b"wharfinger.reason", reason)
        text(b, b"wharfinger.reason.words", words)
        pb_number(b, ATTRIBUTE, b"wharfinger.scope", e.scope)
        text(b, b"wharfinger.pool", pool.name)
        text(b, b"wharfinger.virtual_address", virtual)
        number(b, b"wharfinger.redirect_port", e.redirect_port)
        number(b, b"wharfinger.service_port", e.service_port)
        number(b, b"wharfinger.target_port", e.target_port)
        text(b, b"wharfinger.client", client.name)
        text(b, b"wharfinger.client.node", client.node)
        text(b, b"wharfinger.server", server.name)
        text(b, b"wharfinger.server.address", server.text)
        text(b, b"wharfinger.server.node", server.node)
        if e.kind == core.EVENT_CLOSED:
            text(b, b"wharfinger.ended_by", b"reset" if e.ends & core.RESET else b"fin")

    cdef Party party(self, const core.addr *a):
        cdef bytes key
        if not memcmp(a, &nobody, sizeof(nobody)):
            return NOBODY
        key = (<const char *>a.byte)[:16]
        found = self.parties.get(key)
        if found is None:
            address = unpack_address(key)
            found = self.parties[key] = Party(address, self.names.pod(address))
        return found

    cdef Pool pool(self, uint32_t scope):
        found = self.pools.get(scope)
        if found is None:
            found = self.pools[scope] = Pool(self.names.pool(scope), self.names.virtual_address(scope))
        return found


cdef bint span_ids(const kept_record *k, uint64_t *own, uint64_t *parent) noexcept nogil:
    """The role's own span id, and its parent's if it has one."""
    cdef const core.event *e = &k.event
    if e.role == core.ROLE_CLIENT:
        own[0] = c_span_of(&k.trace, core.ROLE_CLIENT, &nobody, e.redirect_port)
        return 0
    if e.role == core.ROLE_BALANCER:
        own[0] = c_span_of(&k.trace, core.ROLE_BALANCER, &e.server, e.redirect_port)
        parent[0] = c_span_of(&k.trace, core.ROLE_CLIENT, &nobody, e.redirect_port)
        return 1
    own[0] = c_span_of(&k.trace, core.ROLE_SERVER, &e.server, e.service_port)
    parent[0] = c_span_of(&k.trace, core.ROLE_BALANCER, &e.server, e.redirect_port)
    return e.aware  # nobody else traces what an unaware client began


cdef inline void put_id(protobuf *b, int field, const uint64_t *words, int count) noexcept:
    """A number of one or two words of 64 bits, big-endian."""
    cdef uint64_t id[2]
    cdef int n
    for n in range(count):
        id[n] = htobe64(words[n])
    pb_bytes(b, field, id, 8 * count)


cdef inline void text(protobuf *b, const char *key, bytes value):
    pb_text(b, ATTRIBUTE, key, <const char *>value, len(value))


cdef inline void number(protobuf *b, const char *key, uint16_t port) noexcept:
    pb_number(b, ATTRIBUTE, key, core.from_be16(port))


cdef void put_established(protobuf *b, uint64_t at_ns) noexcept:
    """The span's event at which the handshake ended."""
    cdef uint8_t event[32]
    cdef protobuf inner
    inner.at, inner.end, inner.left_out = event, event + sizeof(event), 0
    pb_fixed64(&inner, 1, at_ns)
    pb_bytes(&inner, 2, b"established", 11)
    pb_bytes(b, EVENT, event, inner.at - event)


cdef bytes framed(uint8_t *span, uint8_t *end):
    """A span as a field of ScopeSpans: its tag and length stand before it."""
    cdef size_t size = end - span
    cdef uint8_t *at = span - 1 - pb_varint_size(size)
    at[0] = SPANS << 3 | 2
    pb_put_varint(at + 1, size)
    return (<const char *>at)[:end - at]


cdef bytes end_point(bytes address, uint16_t port):
    """address:port, RFC 3986's brackets around IPv6; :port alone without an address."""
    return (b"[%b]:%d" if b":" in address else b"%b:%d") % (address, port)
