"""Substitutes for client ports that the server's stack has in use, when those are very many.

The rules are in docs/protocol.md, "State of the ends".
"""

from __future__ import annotations

import pytest
from support.packets import REDIRECT, option, tcp
from support.slices import pool_slice
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import Role, pack_flow_key
from wharfinger_dataplane.tables import Tables

CLIENT, SERVER, TARGET, IFINDEX = "10.99.1.10", "10.99.2.20", 8080, 5
EPHEMERAL = range(32_768, 61_000)  # net.ipv4.ip_local_port_range, unless told otherwise


@pytest.fixture(scope="module")
def node() -> Engine:
    """The server's, whose stack has a socket for every ephemeral port of the client."""
    engine = Engine()
    tables = Tables(engine)
    tables.apply([pool_slice({"a": SERVER})])
    tables.put_pod(SERVER, IFINDEX, Role.SERVER, netns=1)
    for port in EPHEMERAL:
        engine.hold(pack_flow_key(SERVER, TARGET, CLIENT, port), 1, 1)
    return engine


def test_a_client_with_all_its_ports_at_a_server_in_time_wait_opens_another_connection(node):
    for port in EPHEMERAL[::97]:
        syn = tcp(f"{CLIENT}:{port}", f"{SERVER}:80", "S", seq=port, options=option(REDIRECT, scope=7))
        assert node.run("to_pod", syn, ifindex=IFINDEX, now_ns=1).reason.name == "server_syn"
