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
END_RESET, END_RESET_SAID = core.END_RESET, core.END_RESET_SAID
COUNTER_REASONS = core.COUNTER_REASONS
SETTING_HELD_UNTIL = core.SETTING_HELD_UNTIL
SETTING_GENERATION = core.SETTING_GENERATION
SETTING_LEFT_TO_STACK = core.SETTING_LEFT_TO_STACK
TRACES_ALL = core.TRACES_ALL
GATE = str(ipaddress.IPv4Address(core.GATE_ADDRESS)), core.GATE_PORT
"""Whom the start gate's question is addressed to."""
EVENT_KIND_AT = <size_t>&(<core.event *>NULL).kind
EVENT_ISN_AT = <size_t>&(<core.event *>NULL).isn
EVENT_ESTABLISHED_AT = <size_t>&(<core.event *>NULL).established_ns
"""Where in a record of struct event these are."""
FLOW_SEEN_AT = <size_t>&(<core.flow *>NULL).seen_ns
"""Where in a record of struct flow the moment of its last packet is."""


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


class Policy(IntEnum):
    """How a redirect set is drawn from (tables.h, enum policy)."""

    HASH = core.POLICY_HASH
    RANDOM = core.POLICY_RANDOM
    ROUND_ROBIN = core.POLICY_ROUND_ROBIN


class ServerState(IntEnum):
    """tables.h, enum server_state."""

    READY = core.SERVER_READY
    DRAINING = core.SERVER_DRAINING


class PortKind(IntEnum):
    """tables.h, enum port_kind."""

    SERVER = core.PORT_SERVER
    SET = core.PORT_SET


class Side(IntEnum):
    """Which end's record, seen from where (tables.h, enum flow_side)."""

    CLIENT_STACK = core.SIDE_CLIENT_STACK
    CLIENT_WIRE = core.SIDE_CLIENT_WIRE
    SERVER_STACK = core.SIDE_SERVER_STACK
    SERVER_WIRE = core.SIDE_SERVER_WIRE


class FlowState(IntEnum):
    """tables.h, enum flow_state."""

    OPENING = core.FLOW_OPENING
    REDIRECTED = core.FLOW_REDIRECTED
    ESTABLISHED = core.FLOW_ESTABLISHED
    CLOSING = core.FLOW_CLOSING
    UNENTERED = core.FLOW_UNENTERED
    STRAY = core.FLOW_STRAY


class EventKind(IntEnum):
    """work.h, enum event_kind."""

    BALANCED = core.EVENT_BALANCED
    CLOSED = core.EVENT_CLOSED


class EventRole(IntEnum):
    """work.h, enum role."""

    CLIENT = core.ROLE_CLIENT
    BALANCER = core.ROLE_BALANCER
    SERVER = core.ROLE_SERVER


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


class FlowKey(NamedTuple):
    side: Side
    local: str
    local_port: int
    peer: str
    peer_port: int


class Flow(NamedTuple):
    other: str
    scope: int
    isn: int
    redirect_port: int
    service_port: int
    state: FlowState
    ends: int
    aware: bool
    client_port: int
    started_ns: int
    established_ns: int
    seen_ns: int


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


def pack_interface(bits) -> bytes:
    """`bits`: of InterfaceBit."""
    cdef core.interface out
    out.bits = int(bits)
    return (<const char *>&out)[:sizeof(out)]


def unpack_interface(bytes record) -> InterfaceBit:
    check(record, sizeof(core.interface))
    return InterfaceBit((<const core.interface *><const char *>record).bits)


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


def pack_server_port(uint32_t scope, uint16_t target, services=()) -> bytes:
    """`services`: of a redirect port, the service ports that the server may name for it."""
    cdef core.server_port out
    cdef int n = 0
    if len(services) > SERVICE_PORTS_MAX:
        raise ValueError(f"{len(services)} service ports; a server has {SERVICE_PORTS_MAX} a target at most")
    memset(&out, 0, sizeof(out))
    out.scope, out.target, out.count = scope, core.to_be16(target), <uint16_t>len(services)
    for port in services:
        out.service[n] = core.to_be16(port)
        n += 1
    return (<const char *>&out)[:sizeof(out)]


def unpack_server_port(bytes record) -> ServerPort:
    check(record, sizeof(core.server_port))
    cdef const core.server_port *p = <const core.server_port *><const char *>record
    return ServerPort(p.scope, core.from_be16(p.target), tuple(core.from_be16(p.service[n]) for n in range(p.count)))


def pack_flow_key(int side, str local, uint16_t local_port, str peer, uint16_t peer_port) -> bytes:
    cdef core.flow_key out
    memset(&out, 0, sizeof(out))
    out.local, out.peer, out.side, out.proto = to_addr(local), to_addr(peer), <uint8_t>side, core.PROTO_TCP
    out.local_port, out.peer_port = core.to_be16(local_port), core.to_be16(peer_port)
    return (<const char *>&out)[:sizeof(out)]


def unpack_flow_key(bytes record) -> FlowKey:
    check(record, sizeof(core.flow_key))
    cdef const core.flow_key *k = <const core.flow_key *><const char *>record
    return FlowKey(Side(k.side), from_addr(&k.local), core.from_be16(k.local_port), from_addr(&k.peer), core.from_be16(k.peer_port))


def pack_flow(*, str other, uint32_t scope, uint32_t isn, uint16_t redirect_port, uint16_t service_port, int state,
              uint64_t started_ns, uint64_t seen_ns, uint16_t client_port=0, uint32_t ends=0) -> bytes:
    """An aware connection's struct flow, as tests need it: only packets write them else."""
    cdef core.flow out
    memset(&out, 0, sizeof(out))
    out.other, out.scope, out.isn, out.state, out.aware = to_addr(other), scope, isn, <uint8_t>state, 1
    out.redirect_port, out.service_port = core.to_be16(redirect_port), core.to_be16(service_port)
    if client_port:
        out.client_port = core.to_be16(client_port)  # of the server's side, which has no other address
    out.started_ns, out.seen_ns, out.ends = started_ns, seen_ns, ends
    return (<const char *>&out)[:sizeof(out)]


def unpack_flow(bytes record) -> Flow:
    check(record, sizeof(core.flow))
    cdef const core.flow *f = <const core.flow *><const char *>record
    return Flow(from_addr(&f.other), f.scope, f.isn, core.from_be16(f.redirect_port), core.from_be16(f.service_port), FlowState(f.state),
                f.ends, bool(f.aware), core.from_be16(f.client_port), f.started_ns, f.established_ns, f.seen_ns)


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


def ended_flows(items, uint64_t now_ns, uint64_t idle_ns, uint64_t wire_ns, uint64_t opening_ns, dict gone) -> list:
    """Of `flows`' (key, value) records, as they are, those that may have ended: closing, reset by the wire's word, not seen for `idle_ns`,
    unanswered for `opening_ns`, or of a pod that is gone (`gone`: packed address -> since when, ns). The wire's records, which packets do not
    touch, when they are older than `wire_ns`."""
    cdef const core.flow_key *k
    cdef const core.flow *f
    cdef uint64_t seen, limit
    cdef bytes key, value
    out = []
    for item in items:
        key, value = item
        if len(key) != sizeof(core.flow_key) or len(value) != sizeof(core.flow):
            raise ValueError(f"a flow of {len(key)} and {len(value)} bytes")
        k, f = <const core.flow_key *><const char *>key, <const core.flow *><const char *>value
        seen, limit = f.seen_ns, idle_ns
        if k.side in (core.SIDE_CLIENT_WIRE, core.SIDE_SERVER_WIRE):
            seen, limit = f.started_ns, wire_ns
        elif f.state == core.FLOW_OPENING:
            seen, limit = f.started_ns, opening_ns
        if f.state == core.FLOW_CLOSING or f.ends & core.END_RESET_SAID or (now_ns > seen and now_ns - seen > limit) or (gone and f.started_ns < gone.get(key[:16], 0)):
            out.append(item)
    return out


def open_flows(items) -> list:
    """Of `flows`' (key, value) records, as they are, the stacks' entries of aware connections that are established and have not ended."""
    cdef const core.flow_key *k
    cdef const core.flow *f
    cdef uint32_t fins = core.END_LOCAL_FIN | core.END_PEER_FIN
    cdef bytes key, value
    out = []
    for item in items:
        key, value = item
        if len(key) != sizeof(core.flow_key) or len(value) != sizeof(core.flow):
            raise ValueError(f"a flow of {len(key)} and {len(value)} bytes")
        k, f = <const core.flow_key *><const char *>key, <const core.flow *><const char *>value
        if k.side not in (core.SIDE_CLIENT_STACK, core.SIDE_SERVER_STACK) or not f.scope or f.state == core.FLOW_OPENING:
            continue
        if not (f.ends & core.END_RESET or (f.ends & fins) == fins):
            out.append(item)
    return out


def flows_to(items, dict gone) -> list:
    """Of `flows`' (key, value) records, as they are, those of clients' connections that lead to a server of `gone` and are not over:
    packed address -> (service ports, scopes). By the service port that the server named; else by the scope."""
    cdef const core.flow_key *k
    cdef const core.flow *f
    cdef bytes key, value
    cdef uint32_t both = core.END_LOCAL_FIN | core.END_PEER_FIN
    out = []
    for item in items:
        key, value = item
        if len(key) != sizeof(core.flow_key) or len(value) != sizeof(core.flow):
            raise ValueError(f"a flow of {len(key)} and {len(value)} bytes")
        k, f = <const core.flow_key *><const char *>key, <const core.flow *><const char *>value
        if k.side != core.SIDE_CLIENT_STACK or not f.aware or f.state == core.FLOW_OPENING or f.ends & core.END_RESET or (f.ends & both) == both:
            continue
        found = gone.get(value[:16])
        if found is None:
            continue
        ports, scopes = found
        if f.service_port and f.service_port != f.redirect_port:
            if core.from_be16(f.service_port) in ports:
                out.append(item)
        elif f.scope in scopes or core.from_be16(f.service_port) in ports:
            out.append(item)
    return out
