"""docs/protocol.md, "Establishing" and its invariants, over whole conversations by a bad wire."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.dataplane.conversation import CLIENT, SERVICE_PORTS, Conversation
from wharfinger_dataplane._records import FlowState, unpack_flow, unpack_wire, wire_key_of
from wharfinger_dataplane.kernel import CONNECTION_TABLES

KINDS = ("deliver", "deliver", "deliver", "lose", "repeat", "client timer", "server timer", "write")
actions = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), max_size=40)
numbers = st.one_of(st.sampled_from([0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE]), st.integers(0, 0xFFFFFFFF))


def remembered(conversation: Conversation, address: str) -> dict[str, list[FlowState]]:
    """What one end remembers: table -> the states of its records."""
    engine = conversation.engines[address]
    return {
        table: [
            (unpack_flow if "flows" in table else unpack_wire)(value).state
            for _, value in engine.items(table)
        ]
        for table in CONNECTION_TABLES
    }


def nothing_but(state: FlowState) -> dict[str, list[FlowState]]:
    """One established connection, and nothing else."""
    return {table: [state] if table in ("flows", "wires") else [] for table in CONNECTION_TABLES}


def lead_to_each_other(conversation: Conversation, address: str) -> bool:
    engine = conversation.engines[address]
    return {wire_key_of(key, flow) for key, flow in engine.items("flows")} == {
        key for key, _ in engine.items("wires")
    }


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@given(isn=numbers, server_isn=numbers, talkative=st.booleans(), acts=actions)
@example(
    isn=1,
    server_isn=0x80000000,
    talkative=False,
    acts=[("repeat", 0), ("deliver", 0), ("deliver", 0), ("deliver", 0)],
)
def test_p03_a_conversation_over_a_bad_wire_keeps_the_invariants(isn, server_isn, talkative, acts):
    conversation = Conversation(isn, server_isn, talkative)
    for kind, number in acts:
        conversation.act(kind, number)
    conversation.settle()
    conversation.write(b"the end")
    conversation.settle()
    if conversation.unaware:
        return
    flow = conversation.client.flow
    server = conversation.joined.split(":")[0]
    assert conversation.joined == f"{server}:{SERVICE_PORTS[server]}"
    assert flow.state == "established"
    assert flow.read == flow.wrote == conversation.servers[server].flows[flow.local].read
    assert [address for address, stack in conversation.servers.items() if stack.flows] == [server]
    assert remembered(conversation, CLIENT) == nothing_but(FlowState.CLIENT_ESTABLISHED)
    at_server = remembered(conversation, server)
    if at_server["opening_flows"]:  # a SYN that came again when the connection was there
        assert at_server.pop("opening_flows") == at_server.pop("opening_wires") == [FlowState.SERVER_OPENING]
    assert nothing_but(FlowState.SERVER_ESTABLISHED).items() >= at_server.items()
    assert lead_to_each_other(conversation, CLIENT) and lead_to_each_other(conversation, server)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(isn=numbers, server_isn=numbers, writes=st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_p09_entries_lost_at_the_server_are_rebuilt_and_no_octet_is_lost(isn, server_isn, writes):
    conversation = Conversation(isn, server_isn)
    conversation.settle()
    for data in writes:
        for address in SERVICE_PORTS:
            for table in CONNECTION_TABLES:
                for key, _ in conversation.engines[address].items(table):
                    conversation.engines[address].delete(table, key)
        conversation.write(data)
        conversation.settle()
    assert conversation.client.flow.read == b"".join(writes)
