# distutils: language = c
"""Keys and values of the tables as Python things, through the C structs themselves: no second description of any layout.

Addresses are text ("10.0.0.1"), ports and sequence numbers are numbers, times are nanoseconds of the monotonic clock.
"""

import ipaddress
from enum import IntEnum, IntFlag
from typing import NamedTuple

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from wharfinger_dataplane cimport core

SET_SLOTS = core.SET_SLOTS
PAGE_PORTS = core.PAGE_PORTS
PAGES = 65536 // core.PAGE_PORTS
SERVICE_PORTS_MAX = core.SERVICE_PORTS_MAX
TCP = core.PROTO_TCP
COUNTER_REASONS = core.COUNTER_REASONS
SETTING_HELD_UNTIL = core.SETTING_HELD_UNTIL
SETTING_GENERATION = core.SETTING_GENERATION
SETTING_LEFT_TO_STACK = core.SETTING_LEFT_TO_STACK
SETTING_FULL = core.SETTING_FULL
SETTING_MADE = core.SETTING_MADE
TRACES_ALL = core.TRACES_ALL
GATE = str(ipaddress.IPv4Address(core.GATE_ADDRESS)), core.GATE_PORT
"""Whom the start gate's question is addressed to."""
SEEN_AT = <size_t>&(<core.flow *>NULL).seen
"""Where in a record of struct flow or struct wire the stamp of its last use is (clock.h)."""
COMPARABLE = <size_t>&(<core.flow *>NULL).mtu
"""How many bytes of either come before what depends on the host and on the time."""


class Role(IntFlag):
    """What a local pod is to us (tables.h, enum pod_role)."""

    CLIENT = core.POD_CLIENT
    SERVER = core.POD_SERVER
    INGRESS_SELECTED = core.POD_INGRESS_SELECTED
    EGRESS_SELECTED = core.POD_EGRESS_SELECTED


class InterfaceBit(IntFlag):
    """What holds of an interface of the node (tables.h, enum interface_bit)."""

    DIRECT = core.INTERFACE_DIRECT
    STRICT = core.INTERFACE_STRICT
    PODS = core.INTERFACE_PODS


class Policy(IntEnum):
    """How a redirect set is drawn from (tables.h, enum balancing)."""

    HASH = core.BALANCE_HASH
    RANDOM = core.BALANCE_RANDOM
    ROUND_ROBIN = core.BALANCE_ROUND_ROBIN


class ServerState(IntEnum):
    """tables.h, enum server_state."""

    READY = core.SERVER_READY
    DRAINING = core.SERVER_DRAINING


class PortKind(IntEnum):
    """tables.h, enum port_kind."""

    SERVER = core.PORT_SERVER
    SET = core.PORT_SET


class MoveMode(IntEnum):
    """How a pool's established connections may be moved (tables.h, enum move_mode)."""

    NEVER = core.MOVE_NEVER
    CLOSE = core.MOVE_CLOSE


class Asked(IntEnum):
    """What became of a server's question to its client (moves.h, enum asked)."""

    ASKED = core.ASKED
    NOBODY = core.ASKED_NOBODY
    BUSY = core.ASKED_BUSY
    FAILED = core.ASKED_FAILED


class FlowState(IntEnum):
    """tables.h, enum flow_state."""

    CLIENT_CLAIMED = core.CLIENT_CLAIMED
    CLIENT_OPENING = core.CLIENT_OPENING
    CLIENT_UNAWARE = core.CLIENT_UNAWARE
    CLIENT_JOINING = core.CLIENT_JOINING
    CLIENT_ESTABLISHED = core.CLIENT_ESTABLISHED
    CLIENT_CLOSED = core.CLIENT_CLOSED
    SERVER_OPENING = core.SERVER_OPENING
    SERVER_ESTABLISHED = core.SERVER_ESTABLISHED
    SERVER_CLOSED = core.SERVER_CLOSED
    SERVER_FOUND = core.SERVER_FOUND
    SERVER_STRAY = core.SERVER_STRAY

    @property
    def is_client(self) -> bool:
        """Whether it is the client's side of a connection."""
        return bool(core.is_client_state(self.value))


class Mark(IntFlag):
    """tables.h, enum flow_mark."""

    LOCAL_FIN = core.LOCAL_FIN
    PEER_FIN = core.PEER_FIN
    RESET = core.RESET
    FIN_SEEN = core.FIN_SEEN
    RESET_SEEN = core.RESET_SEEN
    AWARE = core.AWARE
    BY_STACK = core.BY_STACK
    CLOSING = core.CLOSING


class EventKind(IntEnum):
    """work.h, enum event_kind."""

    BALANCED = core.EVENT_BALANCED
    CLOSED = core.EVENT_CLOSED


class EventRole(IntEnum):
    """work.h, enum role."""

    CLIENT = core.ROLE_CLIENT
    BALANCER = core.ROLE_BALANCER
    SERVER = core.ROLE_SERVER


class Interface(NamedTuple):
    bits: InterfaceBit
    incoming: int


class Pod(NamedTuple):
    ifindex: int
    roles: Role
    netns: int = -1


class RedirectSet(NamedTuple):
    scope: int
    policy: Policy
    slots: list[int]


class Server(NamedTuple):
    address: str
    scope: int
    state: int


class ServerPortKey(NamedTuple):
    address: str
    scope: int
    port: int


class ServerPort(NamedTuple):
    scope: int
    target: int
    services: tuple[int, ...]
    moves: MoveMode = MoveMode.NEVER


class FlowKey(NamedTuple):
    """A connection as its pod's stack sees it, or, with `ifindex` 0, as the wire has it."""

    local: str
    local_port: int
    peer: str
    peer_port: int
    ifindex: int


class Flow(NamedTuple):
    """tables.h, struct flow. `server` is None at the server's side, `client_port` and `redirect_port` 0 at the client's."""

    state: FlowState
    marks: Mark
    tries: int
    reason: int
    isn: int
    scope: int
    server: str | None
    client_port: int
    redirect_port: int
    wire_port: int
    seen: int
    established_us: int
    started_ns: int


class Wire(NamedTuple):
    """tables.h, struct wire."""

    state: FlowState
    isn: int
    ifindex: int
    peer: str
    local_port: int
    peer_port: int
    started_ns: int


class Event(NamedTuple):
    """work.h, struct event. Addresses that the role cannot know are None, ports 0."""

    kind: EventKind
    role: EventRole
    reason: int
    ends: int
    time_ns: int
    started_ns: int
    established_ns: int
    client: str | None
    virtual: str | None
    server: str | None
    scope: int
    isn: int
    ifindex: int
    client_port: int
    redirect_port: int
    service_port: int
    target_port: int
    aware: bool


cdef core.addr to_addr(str text) except *:
    cdef core.addr out
    parsed = ipaddress.ip_address(text)
    cdef bytes packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    memcpy(out.byte, <const char *>packed, 16)
    return out


cdef uint32_t to_v4(str text) except? 0:
    """An IPv4 address as it lies in packets."""
    cdef uint32_t out
    cdef bytes packed = ipaddress.IPv4Address(text).packed
    memcpy(&out, <const char *>packed, 4)
    return out


cdef str from_v4(uint32_t v4):
    cdef const unsigned char *b = <const unsigned char *>&v4
    return f"{b[0]}.{b[1]}.{b[2]}.{b[3]}"


cdef str from_addr(const core.addr *a):
    cdef const unsigned char *b = &a.byte[0]
    if b[10] == 0xff and b[11] == 0xff and not any(b[n] for n in range(10)):
        return f"{b[12]}.{b[13]}.{b[14]}.{b[15]}"
    packed = (<const char *>b)[:16]
    return str(ipaddress.IPv6Address(packed))


cdef void check(bytes record, size_t size) except *:
    if <size_t>len(record) != size:
        raise ValueError(f"a record of {len(record)} bytes where the structure has {size}")


def pack_address(str text) -> bytes:
    """struct addr: an IPv4 address is mapped into IPv6's shape."""
    cdef core.addr a = to_addr(text)
    return (<const char *>a.byte)[:16]


def unpack_address(bytes record) -> str:
    check(record, 16)
    return from_addr(<const core.addr *><const char *>record)


def pack_index(uint32_t index) -> bytes:
    return (<const char *>&index)[:4]


def unpack_index(bytes record) -> int:
    check(record, 4)
    return (<const uint32_t *><const char *>record)[0]


def pack_setting(uint32_t number, uint64_t value) -> tuple[bytes, bytes]:
    """Key and value of the programs' settings."""
    return pack_index(number), (<const char *>&value)[:8]


def pack_tracing(bytes key, uint64_t traced) -> list[tuple[bytes, bytes]]:
    """Settings: programs tell of `traced` of TRACES_ALL connections (the first), chosen under a key of 16 bytes (trace.h)."""
    check(key, 16)
    if traced > core.TRACES_ALL:
        raise ValueError(f"{traced} traces of {core.TRACES_ALL}")
    return [pack_setting(core.SETTING_TRACED, traced), pack_setting(core.SETTING_TRACE_KEY_LOW, int.from_bytes(key[:8], "little")),
            pack_setting(core.SETTING_TRACE_KEY_HIGH, int.from_bytes(key[8:], "little"))]


def pack_interface(bits, uint32_t incoming=0) -> bytes:
    """`bits`: of InterfaceBit; `incoming`: the interface that the stack takes what arrives there to come in by, 0 for this one."""
    cdef core.interface out
    out.bits, out.incoming = int(bits), incoming
    return (<const char *>&out)[:sizeof(out)]


def unpack_interface(bytes record) -> Interface:
    check(record, sizeof(core.interface))
    cdef const core.interface *found = <const core.interface *><const char *>record
    return Interface(InterfaceBit(found.bits), found.incoming)


def pack_pod(uint32_t ifindex, roles, netns=-1) -> bytes:
    """`netns`: the pod's network namespace as the node's numbers it (NETNSA_NSID); -1: not known."""
    cdef core.pod out
    out.ifindex, out.roles, out.netns = ifindex, int(roles), netns
    return (<const char *>&out)[:sizeof(out)]


def unpack_pod(bytes record) -> Pod:
    check(record, sizeof(core.pod))
    cdef const core.pod *p = <const core.pod *><const char *>record
    return Pod(p.ifindex, Role(p.roles), p.netns)


def pack_address_key(str address, uint32_t proto=core.PROTO_TCP) -> bytes:
    cdef core.address_key out
    out.addr, out.proto = to_addr(address), proto
    return (<const char *>&out)[:sizeof(out)]


def pack_pages(dict pages) -> bytes:
    """struct address: page number (0 to 255) -> index of the page (1 and up)."""
    cdef core.address out
    memset(&out, 0, sizeof(out))
    for number, index in pages.items():
        if not 0 <= number < PAGES:
            raise ValueError(f"page {number} of a table of {PAGES} pages")
        out.page[<int>number] = index
    return (<const char *>&out)[:sizeof(out)]


def unpack_pages(bytes record) -> dict:
    check(record, sizeof(core.address))
    cdef const core.address *a = <const core.address *><const char *>record
    return {n: a.page[n] for n in range(PAGES) if a.page[n]}


def pack_page(dict ports) -> bytes:
    """struct page: port within the page (0 to 255) -> (PortKind, index)."""
    cdef core.page out
    memset(&out, 0, sizeof(out))
    for number, (kind, index) in ports.items():
        if not 0 <= number < PAGE_PORTS or index >> core.PORT_INDEX_BITS:
            raise ValueError(f"port {number} of a page, index {index}: out of range")
        out.port[<int>number] = <uint32_t>kind << core.PORT_INDEX_BITS | <uint32_t>index
    return (<const char *>&out)[:sizeof(out)]


def unpack_page(bytes record) -> dict:
    """As `pack_page` takes it; ports that mean nothing are left out."""
    check(record, sizeof(core.page))
    cdef const core.page *p = <const core.page *><const char *>record
    return {n: (PortKind(p.port[n] >> core.PORT_INDEX_BITS), p.port[n] & ((1 << core.PORT_INDEX_BITS) - 1)) for n in range(PAGE_PORTS) if p.port[n]}


def pack_set(uint32_t scope, uint32_t policy, slots) -> bytes:
    """struct redirect_set; `slots` are server indexes, SET_SLOTS at most."""
    cdef core.redirect_set out
    cdef int n = 0
    if len(slots) > SET_SLOTS:
        raise ValueError(f"{len(slots)} slots; a set holds {SET_SLOTS}")
    memset(&out, 0, sizeof(out))
    out.scope, out.policy, out.size = scope, policy, <uint32_t>len(slots)
    for slot in slots:
        out.slot[n] = slot
        n += 1
    return (<const char *>&out)[:sizeof(out)]


def unpack_set(bytes record) -> RedirectSet:
    check(record, sizeof(core.redirect_set))
    cdef const core.redirect_set *s = <const core.redirect_set *><const char *>record
    return RedirectSet(s.scope, Policy(s.policy), [s.slot[n] for n in range(s.size)])


def pack_server(str address, uint32_t scope, uint32_t state) -> bytes:
    cdef core.server out
    out.addr, out.scope, out.state = to_addr(address), scope, state
    return (<const char *>&out)[:sizeof(out)]


def unpack_server(bytes record) -> Server:
    check(record, sizeof(core.server))
    cdef const core.server *s = <const core.server *><const char *>record
    return Server(from_addr(&s.addr), s.scope, s.state)


def pack_server_port_key(str address, uint16_t port, uint32_t scope=0) -> bytes:
    """A service port has scope 0; a redirect port has its pool's."""
    cdef core.server_port_key out
    memset(&out, 0, sizeof(out))
    out.addr, out.scope, out.port, out.proto = to_addr(address), scope, core.to_be16(port), core.PROTO_TCP
    return (<const char *>&out)[:sizeof(out)]


def unpack_server_port_key(bytes record) -> ServerPortKey:
    check(record, sizeof(core.server_port_key))
    cdef const core.server_port_key *k = <const core.server_port_key *><const char *>record
    return ServerPortKey(from_addr(&k.addr), k.scope, core.from_be16(k.port))


def pack_server_port(uint32_t scope, uint16_t target, services=(), int moves=core.MOVE_NEVER) -> bytes:
    """`services`: of a redirect port, the service ports that the server may name for it. `moves`: of MoveMode."""
    cdef core.server_port out
    cdef int n = 0
    if len(services) > SERVICE_PORTS_MAX:
        raise ValueError(f"{len(services)} service ports; a server has {SERVICE_PORTS_MAX} a target at most")
    memset(&out, 0, sizeof(out))
    out.scope, out.target, out.count, out.moves = scope, core.to_be16(target), <uint8_t>len(services), <uint8_t>moves
    for port in services:
        out.service[n] = core.to_be16(port)
        n += 1
    return (<const char *>&out)[:sizeof(out)]


def unpack_server_port(bytes record) -> ServerPort:
    check(record, sizeof(core.server_port))
    cdef const core.server_port *p = <const core.server_port *><const char *>record
    return ServerPort(p.scope, core.from_be16(p.target), tuple(core.from_be16(p.service[n]) for n in range(p.count)),
                      MoveMode(p.moves))


def pack_flow_key(str local, uint16_t local_port, str peer, uint16_t peer_port, uint32_t ifindex=0) -> bytes:
    """struct flow_key: with the pod's interface a key of flows, without one of wires."""
    cdef core.flow_key out
    core.set_key(&out, ifindex, to_v4(local), core.to_be16(local_port), to_v4(peer), core.to_be16(peer_port))
    return (<const char *>&out)[:sizeof(out)]


def unpack_flow_key(bytes record) -> FlowKey:
    check(record, sizeof(core.flow_key))
    cdef const core.flow_key *k = <const core.flow_key *><const char *>record
    return FlowKey(from_v4(k.local), core.from_be16(k.local_port), from_v4(k.peer), core.from_be16(k.peer_port), k.ifindex)


def pack_flow(*, int state, uint16_t wire_port, str server="0.0.0.0", uint16_t client_port=0, uint16_t redirect_port=0,
              uint32_t scope=0, uint32_t isn=0, int marks=core.AWARE, int reason=0, uint32_t seen=0,
              uint64_t started_ns=0) -> bytes:
    """struct flow, as tests need it: only packets write them else."""
    cdef core.flow out
    memset(&out, 0, sizeof(out))
    out.life.state, out.life.marks, out.life.reason, out.life.isn = <uint8_t>state, <uint8_t>marks, <uint8_t>reason, isn
    out.scope, out.wire_port, out.seen, out.started_ns = scope, core.to_be16(wire_port), seen, started_ns
    if core.is_client_state(out.life.state):
        out.server = to_v4(server)
    else:
        out.client_port, out.redirect_port = core.to_be16(client_port), core.to_be16(redirect_port)
    return (<const char *>&out)[:sizeof(out)]


def unpack_flow(bytes record) -> Flow:
    check(record, sizeof(core.flow))
    cdef const core.flow *f = <const core.flow *><const char *>record
    cdef bint client = core.is_client_state(f.life.state)
    return Flow(FlowState(f.life.state), Mark(f.life.marks), f.life.tries, f.life.reason, f.life.isn, f.scope,
                from_v4(f.server) if client else None, 0 if client else core.from_be16(f.client_port),
                0 if client else core.from_be16(f.redirect_port), core.from_be16(f.wire_port), f.seen, f.established_us,
                f.started_ns)


def pack_wire(*, int state, uint32_t ifindex, str peer, uint16_t local_port, uint16_t peer_port, uint32_t isn=0,
              uint64_t started_ns=0) -> bytes:
    """struct wire, as tests need it."""
    cdef core.wire out
    memset(&out, 0, sizeof(out))
    out.life.state, out.life.isn, out.ifindex, out.peer = <uint8_t>state, isn, ifindex, to_v4(peer)
    out.local_port, out.peer_port, out.started_ns = core.to_be16(local_port), core.to_be16(peer_port), started_ns
    return (<const char *>&out)[:sizeof(out)]


def unpack_wire(bytes record) -> Wire:
    check(record, sizeof(core.wire))
    cdef const core.wire *w = <const core.wire *><const char *>record
    return Wire(FlowState(w.life.state), w.life.isn, w.ifindex, from_v4(w.peer), core.from_be16(w.local_port),
                core.from_be16(w.peer_port), w.started_ns)


def wire_key_of(bytes key, bytes flow) -> bytes:
    """The key of the wire that belongs to a flow."""
    cdef core.flow_key out
    check(key, sizeof(core.flow_key))
    check(flow, sizeof(core.flow))
    core.wire_key_of(&out, <const core.flow_key *><const char *>key, <const core.flow *><const char *>flow)
    return (<const char *>&out)[:sizeof(out)]


def flow_key_of(bytes key, bytes wire) -> bytes:
    """The key of the flow that a wire leads to."""
    cdef core.flow_key out
    check(key, sizeof(core.flow_key))
    check(wire, sizeof(core.wire))
    core.flow_key_of(&out, <const core.flow_key *><const char *>key, <const core.wire *><const char *>wire)
    return (<const char *>&out)[:sizeof(out)]


def connection_of(bytes record) -> tuple:
    """Whose a flow or a wire is: when the connection began, and its client's initial sequence number."""
    cdef const core.flow *f = <const core.flow *><const char *>record
    cdef const core.wire *w = <const core.wire *><const char *>record
    check(record, sizeof(core.wire) if len(record) == sizeof(core.wire) else sizeof(core.flow))
    if <const void *>&f.started_ns != <const void *>&w.started_ns or <const void *>&f.life != <const void *>&w.life:
        raise AssertionError("flows and wires say in different places when they began")
    return f.started_ns, f.life.isn


def stamp(uint64_t now_ns, uint64_t generation=0) -> int:
    """The stamp of a record that is used at this moment (clock.h)."""
    return core.stamp_of(now_ns, generation)


def stamp_age_ns(uint32_t seen, uint64_t now_ns) -> int:
    """How long ago a record with this stamp was last used (clock.h)."""
    return core.stamp_age_ns(seen, now_ns)


def unpack_scope(str table, bytes record) -> int:
    """The scope in a value of the table `server_ports`, `servers` or `sets`."""
    if table == "server_ports":
        check(record, sizeof(core.server_port))
        return (<const core.server_port *><const char *>record).scope
    if table == "servers":
        check(record, sizeof(core.server))
        return (<const core.server *><const char *>record).scope
    if table == "sets":
        check(record, sizeof(core.redirect_set))
        return (<const core.redirect_set *><const char *>record).scope
    raise KeyError(f"values of table {table} bear no scope")


cdef object known(const core.addr *a):
    for n in range(16):
        if a.byte[n]:
            return from_addr(a)
    return None


def unpack_event(bytes record) -> Event:
    check(record, sizeof(core.event))
    cdef const core.event *e = <const core.event *><const char *>record
    return Event(EventKind(e.kind), EventRole(e.role), e.reason, e.ends, e.time_ns, e.started_ns, e.established_ns,
                 known(&e.client), known(&e.virtual), known(&e.server), e.scope, e.isn, e.ifindex,
                 core.from_be16(e.client_port), core.from_be16(e.redirect_port), core.from_be16(e.service_port),
                 core.from_be16(e.target_port), bool(e.aware))


cdef class Batch:
    """A batch of a table's records as the kernel wrote it: `count` keys and values, one after the other."""

    cdef readonly uint32_t count
    cdef readonly bytes keys, values

    def __init__(self, uint32_t count, keys, values):
        self.count, self.keys, self.values = count, bytes(keys), bytes(values)

    cdef _check(self, size_t value_size):
        if <size_t>len(self.keys) < self.count * sizeof(core.flow_key) or <size_t>len(self.values) < self.count * value_size:
            raise ValueError(f"{self.count} records in {len(self.keys)} and {len(self.values)} bytes")

    cdef tuple record(self, uint32_t n, size_t value_size):
        """The n-th (key, value)."""
        return (self.keys[n * sizeof(core.flow_key):(n + 1) * sizeof(core.flow_key)],
                self.values[n * value_size:(n + 1) * value_size])


def quiet_flows(Batch batch, uint64_t now_ns, uint64_t idle_ns, dict gone) -> list:
    """Of a batch of `flows` the (key, value) of those that may be over: the stack has sent nothing for `idle_ns`, or the wire
    says that it was reset, or the pod is gone (`gone`: pack_v4(address) -> since when, ns)."""
    cdef const core.flow_key *k = <const core.flow_key *><const char *>batch.keys
    cdef const core.flow *f = <const core.flow *><const char *>batch.values
    cdef uint32_t n
    batch._check(sizeof(core.flow))
    out = []
    for n in range(batch.count):
        if (core.stamp_age_ns(f[n].seen, now_ns) > idle_ns and now_ns > f[n].started_ns + idle_ns) \
                or f[n].life.marks & core.RESET_SEEN or (gone and f[n].started_ns < gone.get(k[n].local, 0)):
            out.append(batch.record(n, sizeof(core.flow)))
    return out


def old_wires(Batch batch, uint64_t now_ns, uint64_t age_ns) -> list:
    """Of a batch of `wires` the (key, value) of those that began more than `age_ns` ago."""
    cdef const core.wire *w = <const core.wire *><const char *>batch.values
    cdef uint32_t n
    batch._check(sizeof(core.wire))
    return [batch.record(n, sizeof(core.wire)) for n in range(batch.count)
            if now_ns > w[n].started_ns and now_ns - w[n].started_ns > age_ns]


def open_flows(Batch batch) -> list:
    """Of a batch of `flows` the (key, value) of a pool's connections that have not ended."""
    cdef const core.flow *f = <const core.flow *><const char *>batch.values
    cdef uint32_t n
    batch._check(sizeof(core.flow))
    return [batch.record(n, sizeof(core.flow)) for n in range(batch.count)
            if f[n].scope and not core.is_over(f[n].life.marks)]


def flows_to(Batch batch, dict gone) -> list:
    """Of a batch of `flows` the (key, value) of clients' connections that lead to a server of `gone` and are not over:
    pack_v4(address) -> (service ports, scopes). By the service port in use; by the scope when it is the port dialled."""
    cdef const core.flow_key *k = <const core.flow_key *><const char *>batch.keys
    cdef const core.flow *f = <const core.flow *><const char *>batch.values
    cdef uint32_t n
    batch._check(sizeof(core.flow))
    out = []
    for n in range(batch.count):
        if not core.is_client_state(f[n].life.state) or core.is_over(f[n].life.marks):
            continue
        found = gone.get(f[n].server)
        if found is None:
            continue
        ports, scopes = found
        dialled = f[n].wire_port == k[n].peer_port
        if core.from_be16(f[n].wire_port) in ports or (dialled and f[n].scope in scopes):
            out.append(batch.record(n, sizeof(core.flow)))
    return out


def flows_of(Batch batch, dict servers) -> list:
    """Of a batch of `flows` the (key, value) of aware connections of these servers that neither stack has ended:
    pack_v4(address) -> service ports."""
    cdef const core.flow_key *k = <const core.flow_key *><const char *>batch.keys
    cdef const core.flow *f = <const core.flow *><const char *>batch.values
    cdef int ending = core.LOCAL_FIN | core.PEER_FIN | core.RESET
    cdef uint32_t n
    batch._check(sizeof(core.flow))
    out = []
    for n in range(batch.count):
        if f[n].life.state != core.SERVER_ESTABLISHED or not f[n].life.marks & core.AWARE or f[n].life.marks & ending:
            continue
        if core.from_be16(f[n].wire_port) in servers.get(k[n].local, ()):
            out.append(batch.record(n, sizeof(core.flow)))
    return out


def pack_v4(str address) -> int:
    """An IPv4 address as the keys of flows have it; 0 for any other."""
    return to_v4(address) if ipaddress.ip_address(address).version == 4 else 0
