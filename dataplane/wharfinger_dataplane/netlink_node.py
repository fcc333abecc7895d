"""What the kernel says of a node's ways for packets: queueing disciplines, filters, rules, reverse-path
filters, policies of IPsec.

Rules:
- Read raw, by dumps of rtnetlink(7) and NETLINK_XFRM: it is read again whenever something changed, and a node
  may have hundreds of interfaces.
- Nothing here judges: `agent/ways.py` does, which is pure. Every failure is an OSError.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWQDISC, RTM_GETQDISC, RTM_NEWTFILTER, RTM_GETTFILTER = 36, 38, 44, 46
RTM_NEWROUTE, RTM_GETROUTE, RTA_DST = 24, 26, 1
RTM_NEWRULE, RTM_GETRULE, RTM_NEWNETCONF, RTM_GETNETCONF = 32, 34, 80, 82
TCA_KIND, TCA_OPTIONS, TCA_BPF_NAME, TCA_BPF_ID = 1, 2, 7, 11
NESTED = 0x3FFF
"""An attribute's type without the bits that say how it is encoded (NLA_TYPE_MASK)."""
NETCONFA_IFINDEX, NETCONFA_RP_FILTER = 1, 3
ALL_INTERFACES = -1
STRICT = 1
FRA_FWMARK = 10
UNFOLLOWED = {20: "uidrange", 23: "sport", 24: "dport", 25: "dscp"}
"""What else a rule may ask for (FRA_) that a look-up from a program does not tell. It tells addresses,
protocol and the interface; what is forwarded has no outgoing interface to be asked for yet."""
RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE = (
    0x1,
    0x4,
    0x8,
    0x10,
    0x40,
    0x80,
)
RTMGRP_IPV4_NETCONF = 1 << 23
WATCHED = (
    RTMGRP_LINK
    | RTMGRP_NEIGH
    | RTMGRP_TC
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV4_RULE
    | RTMGRP_IPV4_NETCONF
)
AF_BRIDGE = 7
NETLINK_XFRM, XFRMGRP_POLICY = 6, 8
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
NDA_DST, NDA_LLADDR = 1, 2
TC_MESSAGES = range(36, 48)
"""RTM_NEWQDISC to RTM_GETTFILTER (linux/rtnetlink.h)."""
XFRM_MSG_NEWPOLICY, XFRM_MSG_GETPOLICY, XFRM_MSG_GETDEFAULT = 0x13, 0x15, 0x28
XFRM_POLICY_MAX = 3
"""Directions in, out and fwd; those of one socket's policies come after them (xfrm.h)."""
XFRM_DIRECTION_AT = 160
"""In struct xfrm_userpolicy_info: after selector (56), lifetimes (64 and 32), priority and index."""
XFRM_USERPOLICY_BLOCK = 1
NETLINK_NETFILTER, NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN = 12, 10 << 8 | 3, 10 << 8 | 4
NF_INGRESS = {1: 5, 5: 0}
"""Of nftables' families that have chains at an ingress, inet and netdev: what that hook's number is."""
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 1, 3, 4
NFTA_HOOK_HOOKNUM, NFTA_HOOK_DEV, NFTA_HOOK_DEVS = 1, 3, 4
NFTA_DEVICE_PREFIX = 2
INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3


@dataclass(frozen=True)
class Filter:
    """A classic filter of an interface's `direction` ("ingress" or "egress"), in a queueing discipline
    `qdisc` (clsact or ingress). `name` and `program` (an id) are of a BPF filter, else "" and 0."""

    interface: int
    direction: str
    qdisc: str
    kind: str
    priority: int
    name: str = ""
    program: int = 0


@dataclass(frozen=True)
class Rule:
    """An IPv4 policy rule, as far as a look-up by a program does not follow it: `marked` is whether it asks
    for a firewall mark, `unfollowed` what else it asks for that such a look-up does not tell."""

    marked: bool = False
    unfollowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A chain of nftables at the ingress of the interface that is called `device`, or by `prefix` of all
    whose names begin so. `name`: with its table's."""

    name: str
    device: str
    prefix: bool = False

    def is_at(self, interface: str) -> bool:
        return interface.startswith(self.device) if self.prefix else interface == self.device


def qdiscs() -> dict[int, str]:
    """Interface index -> `clsact` or `ingress`, of this namespace's interfaces that have one."""
    found = {}
    for body in _dump(socket.NETLINK_ROUTE, RTM_GETQDISC, bytes(20), RTM_NEWQDISC):
        kind = _text(dict(_attributes(body, 20)).get(TCA_KIND, b""))
        if kind in ("clsact", "ingress"):
            found[struct.unpack_from("=i", body, 4)[0]] = kind
    return found


def filters(index: int, qdisc: str) -> list[Filter]:
    """The classic filters of an interface whose queueing discipline is `qdisc`; none when the interface is
    gone. An `ingress` one knows one direction, whatever is asked for."""
    directions = (("ingress", INGRESS), ("egress", EGRESS)) if qdisc == "clsact" else (("ingress", INGRESS),)
    return [found for direction, parent in directions for found in _filters(index, qdisc, direction, parent)]


def _filters(index: int, qdisc: str, direction: str, parent: int) -> Iterator[Filter]:
    seen = set()
    try:
        for body in _dump(
            socket.NETLINK_ROUTE,
            RTM_GETTFILTER,
            struct.pack("=BxxxiIII", 0, index, 0, parent, 0),
            RTM_NEWTFILTER,
        ):
            if not struct.unpack_from("=I", body, 8)[0]:  # a classifier is listed before its filters, with no handle
                continue
            attributes = dict(_attributes(body, 20))
            options = dict(_attributes(attributes.get(TCA_OPTIONS, b""), 0))
            made = Filter(
                index,
                direction,
                qdisc,
                _text(attributes.get(TCA_KIND, b"")),
                struct.unpack_from("=I", body, 16)[0] >> 16,
                _text(options.get(TCA_BPF_NAME, b"")),
                int.from_bytes(options.get(TCA_BPF_ID, b""), "little"),
            )
            if made not in seen:  # a classifier such as u32 lists its tables beside its filters
                seen.add(made)
                yield made
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def ingress_chains() -> list[Chain]:
    """The chains of nftables at ingresses, which come after all programs there."""
    found = []
    for family, ingress in NF_INGRESS.items():
        try:
            for body in _dump(
                NETLINK_NETFILTER, NFT_MSG_GETCHAIN, struct.pack("=BBH", family, 0, 0), NFT_MSG_NEWCHAIN
            ):
                chain = dict(_attributes(body, 4))
                hook = dict(_attributes(chain.get(NFTA_CHAIN_HOOK, b""), 0))
                if int.from_bytes(hook.get(NFTA_HOOK_HOOKNUM, b"\xff"), "big") == ingress:
                    words = (_text(chain.get(kind, b"")) for kind in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME))
                    name = " ".join(words)
                    found += [Chain(name, *device) for device in _devices(hook)]
        except OSError as error:
            if error.errno not in (
                errno.EPROTONOSUPPORT,
                errno.EINVAL,
                errno.EOPNOTSUPP,
            ):  # the kernel has no nftables
                raise
    return found


def _devices(hook: Mapping[int, bytes]) -> set[tuple[str, bool]]:
    """Names of the interfaces that a chain is at, and whether that is how they begin: an attribute of its
    own, or, in Linux 6.16 and 6.17, a name without its final zero."""
    told = [(NFTA_HOOK_DEV, hook.get(NFTA_HOOK_DEV, b"")), *_attributes(hook.get(NFTA_HOOK_DEVS, b""), 0)]
    return {
        (_text(name), kind == NFTA_DEVICE_PREFIX or not name.endswith(b"\0")) for kind, name in told if name
    }


def rules() -> list[Rule]:
    """This namespace's IPv4 policy rules."""
    found = []
    for body in _dump(socket.NETLINK_ROUTE, RTM_GETRULE, struct.pack("=Bxxx8x", socket.AF_INET), RTM_NEWRULE):
        attributes = dict(_attributes(body, 12))
        tos = ("tos",) if body[3] else ()
        found.append(
            Rule(
                any(attributes.get(FRA_FWMARK, b"")),
                tos + tuple(word for kind, word in UNFOLLOWED.items() if kind in attributes),
            )
        )
    return found


def routes_by_service() -> list[str]:
    """Destinations of this namespace's IPv4 routes, of whichever table and type, that are for packets of one
    type of service alone."""
    found = []
    for body in _dump(socket.NETLINK_ROUTE, RTM_GETROUTE, struct.pack("=B11x", socket.AF_INET), RTM_NEWROUTE):
        _, length, _, service = body[:4]
        if service:
            destination = dict(_attributes(body, 12)).get(RTA_DST, bytes(4))
            found.append(f"{socket.inet_ntoa(destination)}/{length}")
    return found


def strict() -> frozenset[int]:
    """Indexes of the interfaces by which only what a route leads back by may come in: the larger of
    conf.all.rp_filter and their own is 1."""
    values = {}
    for body in _dump(
        socket.NETLINK_ROUTE, RTM_GETNETCONF, struct.pack("=B", socket.AF_INET), RTM_NEWNETCONF
    ):
        attributes = {
            kind: int.from_bytes(value, "little", signed=True) for kind, value in _attributes(body, 4)
        }
        values[attributes.get(NETCONFA_IFINDEX, 0)] = attributes.get(NETCONFA_RP_FILTER, 0)
    return frozenset(
        index
        for index, value in values.items()
        if index > 0 and max(value, values.get(ALL_INTERFACES, 0)) == STRICT
    )


def ipsec_policies() -> int:
    """How many policies of IPsec (xfrm) this namespace has for what it sends, forwards or receives, the
    defaults that block among them. Policies of single sockets are not counted: packets that are passed on are
    not theirs."""
    try:
        found = sum(
            body[XFRM_DIRECTION_AT] < XFRM_POLICY_MAX
            for body in _dump(NETLINK_XFRM, XFRM_MSG_GETPOLICY, b"", XFRM_MSG_NEWPOLICY)
        )
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:  # the kernel has no IPsec
            return 0
        raise
    return found + _blocking_defaults()


def _blocking_defaults() -> int:
    with closing(_socket(NETLINK_XFRM)) as channel:
        channel.send(struct.pack("=IHHII", 19, XFRM_MSG_GETDEFAULT, NLM_F_REQUEST, 1, 0) + bytes(3))
        answer = channel.recv(1 << 12)
    if struct.unpack_from("=H", answer, 4)[0] == NLMSG_ERROR:  # kernels before 5.15 have no such defaults
        return 0
    return sum(value == XFRM_USERPOLICY_BLOCK for value in answer[16:19])


@dataclass
class Changed:
    """What the kernel told of since it was last asked. `ways`: packets may have other ways now; `filters`:
    queueing disciplines or filters; `node`: anything that the agent reads of the node again, which a
    neighbour that became stale is not."""

    ways: bool = False
    filters: bool = False
    node: bool = False


class Changes:
    """Tells of changes of this namespace's links, neighbours, IPv4 addresses, routes, rules and reverse-path
    filters, queueing disciplines, filters, and policies of IPsec. `channels` become readable when there is
    something; the caller closes."""

    def __init__(self) -> None:
        self.channels: list[socket.socket] = []
        self._neighbours: dict[bytes, bytes] = {}
        for protocol, groups in ((socket.NETLINK_ROUTE, WATCHED), (NETLINK_XFRM, XFRMGRP_POLICY)):
            try:
                self.channels.append(_socket(protocol, groups))
                self.channels[-1].setblocking(False)
            except OSError as error:
                if (
                    protocol != NETLINK_XFRM or error.errno != errno.EPROTONOSUPPORT
                ):  # a kernel without IPsec tells nothing of it
                    self.close()
                    raise

    def drain(self) -> Changed:
        """Reads away all that was told. What was lost for want of room may have been anything."""
        changed = Changed()
        for channel in self.channels:
            while True:
                try:
                    self._note(
                        channel.recv(1 << 16), channel.proto, changed
                    )  # the kernel sends one notification at a time
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    changed = Changed(True, True, True)
        return changed

    def _note(self, message: bytes, protocol: int, changed: Changed) -> None:
        kind = struct.unpack_from("=H", message, 4)[0]
        if protocol == NETLINK_XFRM:
            changed.node = True
        elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            changed.ways |= self._neighbour_moved(message, gone=kind == RTM_DELNEIGH)
        elif kind in TC_MESSAGES:
            changed.filters = changed.node = True
        else:
            changed.ways = changed.node = True

    def _neighbour_moved(self, message: bytes, *, gone: bool) -> bool:
        """Whether a neighbour is gone or has another link address: most of what is told of neighbours is that
        they were or were not heard of."""
        if (
            message[16] == AF_BRIDGE
        ):  # what a bridge or a VXLAN device learns of its ports is no next hop's address
            return False
        attributes = dict(_attributes(message, 28))
        key = message[16:24] + attributes.get(NDA_DST, b"")  # struct ndmsg: family, padding, interface
        address = b"" if gone else attributes.get(NDA_LLADDR, b"")
        former = self._neighbours.pop(key, b"")
        if address:
            self._neighbours[key] = address
        return address != former and bool(former)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


def _socket(protocol: int, groups: int = 0) -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        channel.bind((0, groups))
    except OSError:
        channel.close()
        raise
    return channel


def _dump(protocol: int, request: int, header: bytes, kind: int) -> Iterator[bytes]:
    """The messages of type `kind` that answer a dump, without their headers."""
    with closing(_socket(protocol)) as channel:
        length = 16 + len(header)
        channel.send(
            struct.pack("=IHHII", length, request, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
            + header
            + bytes(-length % 4)
        )
        while True:
            data, at = channel.recv(1 << 18), 0
            while at + 16 <= len(data):
                size, found = struct.unpack_from("=IH", data, at)
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    raise OSError(number, f"netlink: {os.strerror(number)}")
                if found == kind:
                    yield data[at + 16 : at + size]
                at += (size + 3) & ~3


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute from byte `at` on."""
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & NESTED, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode(errors="replace")
