"""A SYN through the engine: the agents' own tables and chains answer, nothing is decided here."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from wharfinger_api import ServicePortSlice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._engine import Engine, Reason
from wharfinger_dataplane.tables import Tables

from ._endpoint import Endpoint

INTERFACE = 1
ETHERNET = bytes(12) + b"\x08\x00"
MSS = b"\x02\x04\x05\xb4"  # the option that every stack's SYN has
SYN = 0x02
DESTINATION = slice(30, 34)
MARKS = int(ipaddress.IPv4Address("240.0.0.0"))  # addresses that no host has (RFC 1112, section 4)


@dataclass(frozen=True)
class Answer:
    """What became of the SYN. `server`: the address it was sent to; `slot` of `slots`: what the hash drew from a set, and `drawn` the
    address there, passed over when it is the client's own (both None for other policies); `shares`: address -> slots of its set."""

    reason: Reason
    server: str | None
    slot: int | None = None
    drawn: str | None = None
    slots: int = 0
    shares: dict[str, int] = field(default_factory=dict)


def probe(slices: Iterable[ServicePortSlice], client: Endpoint, dialled: Endpoint, *, policed: bool = False) -> Answer:
    """An attached client's SYN to `dialled`, with the tables of `slices`; `policed`: a NetworkPolicy selects the client. OSError when they
    do not fit."""
    engine = Engine()
    tables = Tables(engine)
    tables.apply(slices)
    tables.put_pod(client.address, INTERFACE, records.Role.CLIENT | (records.Role.EGRESS_SELECTED if policed else 0))
    packet = syn(client, dialled)
    result = engine.run("from_pod", packet, ifindex=INTERFACE)
    if result.reason.outcome != "forward":
        return Answer(result.reason, None)
    server = str(ipaddress.IPv4Address(result.packet[DESTINATION]))
    if result.reason.name != "client_syn":
        return Answer(result.reason, server)
    key, drawn_from = _set_of(engine, dialled)
    addresses = [records.unpack_server(engine.get("servers", records.pack_index(index))).address for index in drawn_from.slots]
    shares = dict(Counter(addresses))
    if drawn_from.policy is not records.Policy.HASH:
        return Answer(result.reason, server, slots=len(addresses), shares=shares)
    slot = _slot(engine, key, drawn_from, packet)
    return Answer(result.reason, server, slot, addresses[slot], len(addresses), shares)


def syn(client: Endpoint, dialled: Endpoint) -> bytes:
    """The first packet of a connection as a stack sends it, 58 bytes; checksums are left at 0, for the chains do not look at them."""
    tcp = struct.pack(">HHIIBBHHH", client.port, dialled.port, 0, 0, (20 + len(MSS)) // 4 << 4, SYN, 65535, 0, 0) + MSS
    addresses = ipaddress.IPv4Address(client.address).packed + ipaddress.IPv4Address(dialled.address).packed
    return ETHERNET + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, records.TCP, 0) + addresses + tcp


def _set_of(engine: Engine, dialled: Endpoint) -> tuple[bytes, records.RedirectSet]:
    """The redirect set (key and value) that the dialled port leads to, as the tables have it."""
    pages = records.unpack_pages(engine.get("addresses", records.pack_address_key(dialled.address)))
    number, within = divmod(dialled.port, records.PAGE_PORTS)
    kind, index = records.unpack_page(engine.get("pages", records.pack_index(pages[number])))[within]
    if kind is not records.PortKind.SET:
        raise LookupError(f"{dialled}: its port leads to no set")
    key = records.pack_index(index)
    return key, records.unpack_set(engine.get("sets", key))


def _slot(engine: Engine, key: bytes, drawn_from: records.RedirectSet, packet: bytes) -> int:
    """Which slot the connection draws. Found by asking: a set of as many slots, each with a server of its own, tells it by the server."""
    marked = Engine()
    for table in ("pods", "addresses", "pages"):
        for name, value in engine.items(table):
            marked.put(table, name, value)
    slots = range(len(drawn_from.slots))
    marked.put("sets", key, records.pack_set(drawn_from.scope, drawn_from.policy, [slot + 1 for slot in slots]))
    for slot in slots:
        address = str(ipaddress.IPv4Address(MARKS + slot))
        marked.put("servers", records.pack_index(slot + 1), records.pack_server(address, drawn_from.scope, records.ServerState.READY))
    result = marked.run("from_pod", packet, ifindex=INTERFACE)
    return int.from_bytes(result.packet[DESTINATION], "big") - MARKS
