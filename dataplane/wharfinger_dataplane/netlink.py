"""The file that speaks netlink, with netlink_node.py: interfaces, routes, classic filters and sockets, of this network namespace or of another.

Rules:
- A look into another namespace is a short-lived thread that enters it (setns(2) changes one thread) and ends there; nothing of it stays.
- Sockets (sock_diag(7)) are read raw, not through pyroute2: a pod may have tens of thousands.
- Every failure is an OSError; pyroute2's own NetlinkError is turned into one here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
ARPHRD_ETHER = 1
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_LISTEN, TCP_CLOSE = 10, 7
ESTABLISHED_ONLY = 1 << 1
CONNECTIONS = 0xFFF & ~(1 << TCP_LISTEN) & ~(1 << TCP_CLOSE)
"""All TCP states but LISTEN and CLOSE, TIME_WAIT and SYN_RECV among them."""
ANY_COOKIE = b"\xff" * 8
MAPPED = bytes(10) + b"\xff\xff"
RTN_UNICAST = 1
UNNUMBERED = 0xFFFFFFFF
CLSACT = 0xFFFF0000
CLSACT_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
ETH_P_ALL = 0x0003

Connection = tuple[str, int, str, int]
"""Local address and port, peer's address and port."""

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Interface:
    """A network interface. `peer`: index of the other end, 0 if it has none; it is in the namespace that this one calls `peer_namespace`
    (None: in this one). `master`: index of the bridge, bond or VRF that it is a port of, 0 if it is of none."""

    index: int
    name: str
    kind: str
    ethernet: bool
    peer: int
    peer_namespace: int | None
    addresses: tuple[str, ...] = ()
    master: int = 0
    link_address: str = ""

    @property
    def leads_to_a_pod(self) -> bool:
        """Whether it leads into another namespace, as a port of a bridge of pods does."""
        return self.kind == "veth" and self.peer_namespace is not None


@dataclass(frozen=True)
class Route:
    """An IPv4 route, of whichever table. `destination` is "" for the default route, `gateway` "" for one that is on the link; it may be an IPv6
    address (RFC 8950)."""

    interface: int
    destination: str
    gateway: str


@contextmanager
def _route_socket() -> Iterator[IPRoute]:
    try:
        with IPRoute() as socket_:
            yield socket_
    except NetlinkError as error:
        raise OSError(error.code, f"netlink: {os.strerror(error.code)}") from error


def open_namespace(path: Path) -> int | None:
    """A descriptor of the network namespace bound at `path`, for the caller to close; None when there is none (any more)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET:
            return fd
    except OSError as error:  # a plain file: nothing is bound here yet, or not any more
        if error.errno != errno.ENOTTY:
            os.close(fd)
            raise
    os.close(fd)
    return None


def inside(namespace: int, look: Callable[[], T]) -> T:
    """What `look` answers when it runs in the network namespace of descriptor `namespace`."""
    answers: list[T] = []
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            if _libc.setns(namespace, CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"entering a network namespace: {os.strerror(number)}")
            answers.append(look())
        except BaseException as error:  # handed to the caller, in whose thread it belongs
            failures.append(error)

    visitor = threading.Thread(target=visit, name="visitor", daemon=True)
    visitor.start()
    visitor.join()
    if failures:
        raise failures[0]
    return answers[0]


def interfaces() -> list[Interface]:
    """The interfaces of the calling thread's namespace, with their IPv4 and IPv6 addresses."""
    with _route_socket() as routes:
        addresses: dict[int, list[str]] = {}
        for found in routes.get_addr():
            address = found.get("IFA_LOCAL") or found.get("IFA_ADDRESS")
            if address:
                addresses.setdefault(found["index"], []).append(address)
        return [_interface(link, tuple(addresses.get(link["index"], ()))) for link in routes.get_links()]


def interface(index: int) -> Interface | None:
    """One interface of this namespace (without its addresses), or None."""
    try:
        with _route_socket() as routes:
            return next((_interface(link, ()) for link in routes.get_links(index)), None)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def namespace_number(namespace: int) -> int:
    """What the calling thread's namespace calls that of descriptor `namespace`, numbering it if need be."""
    with _route_socket() as routes:
        number = routes.get_netnsid(fd=namespace)["nsid"]
        if number != UNNUMBERED:
            return number
        try:
            routes.set_netnsid(fd=namespace)
        except NetlinkError as error:
            if error.code != errno.EEXIST:  # the kernel numbered it meanwhile
                raise
        return routes.get_netnsid(fd=namespace)["nsid"]


def _interface(link: dict, addresses: tuple[str, ...]) -> Interface:
    info = link.get("IFLA_LINKINFO")
    kind = (info.get("IFLA_INFO_KIND") if info else None) or ""
    return Interface(link["index"], link.get("IFLA_IFNAME"), kind, link["ifi_type"] == ARPHRD_ETHER, link.get("IFLA_LINK") or 0,
                     link.get("IFLA_LINK_NETNSID"), addresses, link.get("IFLA_MASTER") or 0, link.get("IFLA_ADDRESS") or "")


def routes() -> list[Route]:
    """The IPv4 unicast routes of this namespace, of every table: rules may choose another than the main one by a pod's address."""
    found = []
    with _route_socket() as socket_:
        for route in socket_.get_routes(family=socket.AF_INET, type=RTN_UNICAST):
            paths = [(hop["oif"], _gateway(hop)) for hop in route.get("RTA_MULTIPATH") or ()]
            paths = paths or [(route.get("RTA_OIF") or 0, _gateway(route))]
            destination = f"{route.get('RTA_DST')}/{route['dst_len']}" if route["dst_len"] else ""
            found += [Route(interface, destination, gateway) for interface, gateway in paths if interface]
    return found


def _gateway(hop: dict) -> str:
    return hop.get("RTA_GATEWAY") or (hop.get("RTA_VIA") or {}).get("addr") or ""


def put_filter(index: int, direction: str, program: int, name: str, priority: int) -> None:
    """A direct-action BPF filter (program descriptor `program`) at `priority` of interface `index`, in place of the one that is there.

    OSError (EBUSY): the interface has an `ingress` queueing discipline, which knows one direction only and would take both for it."""
    with _route_socket() as routes:
        try:
            routes.tc("add", kind="clsact", index=index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            kinds = {found.get("TCA_KIND") for found in routes.get_qdiscs(index=index)}
            if "ingress" in kinds:
                raise OSError(errno.EBUSY, f"interface {index} has an ingress queueing discipline of somebody else's, beside which there can be "
                              "no clsact for programs of both directions") from error
        routes.tc("replace-filter", **_filter(index, direction, priority), fd=program, name=name, direct_action=True)


def drop_filter(index: int, direction: str, priority: int) -> None:
    """Removes the filter that `put_filter` put there, if it and the interface are still there."""
    with _route_socket() as routes:
        try:
            routes.tc("del-filter", **_filter(index, direction, priority))
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise


def _filter(index: int, direction: str, priority: int) -> dict[str, int | str]:
    return {"kind": "bpf", "index": index, "parent": CLSACT_PARENTS[direction], "handle": 1, "prio": priority,
            "protocol": ETH_P_ALL}


def filter_names(index: int, direction: str) -> dict[str, int]:
    """The names of an interface's BPF filters, and their priorities."""
    with _route_socket() as routes:
        return _filter_names(routes, index, direction)


def _filter_names(routes: IPRoute, index: int, direction: str) -> dict[str, int]:
    names = {}
    try:
        for found in routes.get_filters(index=index, parent=CLSACT_PARENTS[direction]):
            options = found.get("TCA_OPTIONS")
            name = options.get("TCA_BPF_NAME") if found.get("TCA_KIND") == "bpf" and options else None
            if name:
                names[name] = found["info"] >> 16
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise
    return names


def drop_clsact(index: int) -> None:
    """Removes an interface's clsact queueing discipline, if it is there and bears no filter of anybody's."""
    with _route_socket() as routes:
        try:
            if any(next(iter(routes.get_filters(index=index, parent=parent)), None) for parent in CLSACT_PARENTS.values()):
                return
            routes.tc("del", kind="clsact", index=index)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise


def diag_socket() -> socket.socket:
    """A sock_diag socket of the calling thread's namespace; it stays in it, whichever thread uses it. The caller closes it."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        channel.bind((0, 0))
    except OSError:
        channel.close()
        raise
    return channel


def connections(channel: socket.socket) -> set[Connection]:
    """Every TCP connection of the namespace of `channel` in any state from SYN_SENT to TIME_WAIT. IPv4 in IPv6's clothes is IPv4."""
    return {found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(channel, family, socket.IPPROTO_TCP, CONNECTIONS)}


def connected(channel: socket.socket, connection: Connection) -> bool:
    """Whether the namespace of `channel` has this very TCP connection, in any state up to TIME_WAIT.

    A listing can miss a connection while others of its hash bucket end; this look-up cannot.
    """
    return _cookie(channel, connection) is not None


def end(channel: socket.socket, connection: Connection) -> bool:
    """Ends this very TCP connection of the namespace of `channel`, with a RST to its peer; whether there was one.

    It is ended by its cookie: the kernel takes the listener for a connection that is not there (any more), and would end that.
    OSError: the kernel does not do so (CONFIG_INET_DIAG_DESTROY), or does not let us.
    """
    cookie = _cookie(channel, connection)
    if cookie is None:
        return False
    number = _error(_ask_about(channel, connection, SOCK_DESTROY, NLM_F_ACK, cookie))
    if number and number not in (errno.ENOENT, errno.ESTALE):
        raise OSError(number, f"ending a connection: {os.strerror(number)}")
    return not number


def _cookie(channel: socket.socket, connection: Connection) -> bytes | None:
    """What the kernel tells this connection's socket by from any other's; None when there is no such connection."""
    data = _ask_about(channel, connection, SOCK_DIAG_BY_FAMILY, 0, ANY_COOKIE)
    if struct.unpack_from("=H", data, 4)[0] == NLMSG_ERROR:
        number = _error(data)
        if number == errno.ENOENT:
            return None
        raise OSError(number, f"looking for a socket: {os.strerror(number)}")
    return None if data[17] in (TCP_LISTEN, TCP_CLOSE) else data[60:68]  # inet_diag_msg from 16 on: family, state, timer, retrans, inet_diag_sockid


def _ask_about(channel: socket.socket, connection: Connection, kind: int, flags: int, cookie: bytes) -> bytes:
    """The answer to a request about one connection (inet_diag_req_v2)."""
    local, local_port, peer, peer_port = connection
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, CONNECTIONS) + struct.pack(
        "!HH16s16s", local_port, peer_port, socket.inet_pton(family, local), socket.inet_pton(family, peer)) + bytes(4) + cookie
    channel.send(struct.pack("=IHHII", 16 + len(request), kind, NLM_F_REQUEST | flags, 1, 0) + request)
    return channel.recv(1 << 12)


def _error(data: bytes) -> int:
    """Of an NLMSG_ERROR: the error's number, 0 for none."""
    return -struct.unpack_from("=i", data, 16)[0]


def asks(channel: socket.socket, address: str, port: int) -> bool:
    """Whether a UDP socket of the namespace of `channel` is connected to `address` (IPv4) and `port`."""
    return any(found[2:] == (address, port) for found in _dump(channel, socket.AF_INET, socket.IPPROTO_UDP, ESTABLISHED_ONLY))


def _dump(channel: socket.socket, family: int, protocol: int, states: int) -> Iterator[Connection]:
    """inet_diag_req_v2 as a dump; inet_diag_msg back (linux/inet_diag.h)."""
    request = struct.pack("=BBBBI", family, protocol, 0, 0, states) + bytes(48)
    channel.send(struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + request)
    while True:
        data = channel.recv(1 << 18)
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, at + 16)[0]
                raise OSError(number, f"listing sockets: {os.strerror(number)}")
            found_family, = struct.unpack_from("=B", data, at + 16)
            local_port, peer_port = struct.unpack_from("!HH", data, at + 20)
            yield (_address(found_family, data[at + 24:at + 40]), local_port, _address(found_family, data[at + 40:at + 56]), peer_port)
            at += (length + 3) & ~3


def _address(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntoa(packed[:4])
    return socket.inet_ntoa(packed[12:]) if packed.startswith(MAPPED) else socket.inet_ntop(socket.AF_INET6, packed)
