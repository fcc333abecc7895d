"""What the agent's consumer makes of records, and what it costs."""

import time

from support.otlp import role_of
from unit.telemetry.conftest import Collected
from unit.telemetry.packets import Connection
from wharfinger_dataplane.telemetry._connections import clock_offset_ns
from wharfinger_dataplane.telemetry._sieve import KEPT

SPAN_NS = 50_000
"""Of a processor that is far slower than the one on which 0.7 µs were measured: the SDK's objects cost 70 µs there."""


def test_one_connection_makes_three_spans(connection, consumer):
    queue = Collected()
    consumer(queue).consume(connection.records)
    assert [role_of(span) for span in queue.spans] == ["balancer", "server", "client"]


def test_records_of_establishment_make_no_span_of_their_own(consumer):
    queue = Collected()
    consumer(queue).consume(Connection().open().records)
    assert [role_of(span) for span in queue.spans] == ["balancer"]


def test_what_was_told_under_another_ratio_or_key_is_sampled_by_the_present_one_and_counted(consumer):
    queue = Collected()
    spans = consumer(queue, 0.5)
    for port in range(40000, 40040):
        spans.consume(Connection(client_port=port).open().close().records)
    assert spans.seen()["sampled_out"] + len(queue.spans) == spans.seen()["records"] == 120
    assert 15 < len(queue.spans) < 105
    traces = {span.trace_id for span in queue.spans}
    assert {tuple(sorted(role_of(span) for span in queue.spans if span.trace_id == trace)) for trace in traces} == {("balancer", "client", "server")}


def test_without_a_collector_nothing_is_done(connection, consumer):
    spans = consumer(None)
    spans.consume(connection.records)
    assert spans.seen()["records"] == 0


def test_the_end_of_a_rebuilt_connection_names_no_trace_and_is_counted(consumer):
    connection = Connection()
    connection.open()
    for table in ("flows", "wires"):
        for key, _ in connection.server.items(table):
            connection.server.delete(table, key)
    connection.records.clear()
    connection.from_client("A", 1)
    connection.from_server("A", 1)
    connection.from_server("FA", 1)
    connection.from_client("FA", 1, acks=2)
    connection.from_server("A", 2, acks=2)
    queue = Collected()
    spans = consumer(queue)
    spans.consume(connection.records)
    assert [role_of(span) for span in queue.spans] == ["client"]
    assert spans.seen()["unidentified"] == 1


def test_spans_stand_where_the_wall_clock_was(consumer):
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    queue = Collected()
    consumer(queue).consume(Connection(now_ns=now).open().close().records)
    for span in queue.spans:
        assert abs(span.start_time_unix_nano - time.time_ns()) < 1_000_000_000


def test_the_offset_between_the_clocks_is_steady():
    assert abs(clock_offset_ns() - clock_offset_ns()) < 50_000_000


def test_records_that_another_version_left_are_counted_and_hold_up_nothing(connection, consumer):
    closing, queue = connection.records[-1], Collected()
    spans = consumer(queue)
    another_kind = closing[:92] + b"\x09" + closing[93:]
    another_reason = closing[:94] + b"\xff" + closing[95:]
    spans.consume([closing[:50], closing + bytes(8), another_kind, another_reason, closing])
    assert spans.seen()["unreadable"] == 4
    assert len(queue.spans) == 1


def test_every_record_is_counted_once(connection, consumer):
    unidentified = connection.records[-1][:16] + bytes(8) + connection.records[-1][24:76] + bytes(4) + connection.records[-1][80:]
    records = [record for port in range(40000, 40050) for record in Connection(client_port=port).open().close().records]
    queue = Collected()
    spans = consumer(queue)
    spans.consume([*records, unidentified, unidentified, b"short"])
    seen = spans.seen()
    assert (seen["records"], seen["unidentified"], seen["unreadable"]) == (153, 2, 1)
    assert len(queue.spans) == 150


def test_more_records_than_a_sieve_holds_are_all_told(connection, consumer):
    queue = Collected()
    consumer(queue).consume([connection.records[0]] * (3 * KEPT + 1))
    assert len(queue.spans) == 3 * KEPT + 1


def test_a_span_costs_little(connection, consumer):
    spans = consumer(Collected())

    def timed(count=20_000):
        started = time.process_time_ns()
        spans.consume([connection.records[-1]] * count)
        return (time.process_time_ns() - started) / count
    assert min(timed() for _ in range(5)) < SPAN_NS
