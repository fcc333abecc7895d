"""Collectors that are absent, hang, refuse or are slow: they cost spans, each counted once by its reason, and nothing else."""

import logging
import os
import socket
import threading
import time
from email.utils import formatdate

import pytest
from unit.telemetry.packets import Connection
from unit.telemetry.test_export import PARENT, await_true
from wharfinger_dataplane.telemetry._collector import _pause_s
from wharfinger_dataplane.telemetry._export import BEHIND, REASONS

RECORDS = 300
QUEUE = 64


def told(telemetry):
    """What became of spans: reason (or "exported", "waiting") -> count, those that are not 0."""
    counts = telemetry.queue.counts()
    found = {"exported": counts.exported, "waiting": counts.waiting, **counts.dropped}
    assert set(found) == {"exported", "waiting", *REASONS}
    return {fate: count for fate, count in found.items() if count}


@pytest.fixture
def loaded(running):
    """Telemetry with a short queue, small batches, and RECORDS records of three spans each connection read."""
    def begin(**variables):
        telemetry = running(**{"OTEL_BSP_MAX_QUEUE_SIZE": str(QUEUE), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16", **variables})
        records = Connection().open().close().records
        for _ in range(RECORDS // len(records)):
            telemetry.connections.consume(records)
        return telemetry
    return begin


def test_a_collector_that_never_answers_holds_up_no_reading_of_records(loaded, collector):
    collector.hold()
    telemetry = loaded()
    assert telemetry.counters()["records", ""] == RECORDS
    assert sum(told(telemetry).values()) == RECORDS
    assert collector.spans() == []


def test_a_collector_that_never_answers_costs_spans_by_time_out_and_want_of_room(loaded, collector):
    collector.hold()
    telemetry = loaded(OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    await_true(lambda: told(telemetry).get("waiting", 0) == 0)
    fates = told(telemetry)
    assert set(fates) == {"timeout", "queue_full"}
    assert fates["timeout"] >= QUEUE
    assert sum(fates.values()) == RECORDS


def test_what_waits_is_bounded_by_the_queue(loaded, collector):
    collector.hold()
    telemetry = loaded()
    assert told(telemetry)["waiting"] <= QUEUE


def test_a_slow_collector_gets_what_the_queue_could_hold_and_the_rest_is_counted(loaded, collector):
    collector.hold()
    telemetry = loaded()
    collector.release()
    await_true(lambda: told(telemetry).get("waiting", 0) == 0)
    assert told(telemetry) == {"exported": QUEUE, "queue_full": RECORDS - QUEUE}
    assert len(collector.spans()) == QUEUE


def test_an_absent_collector_costs_spans_and_they_are_counted(loaded):
    telemetry = loaded(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="0.1")
    await_true(lambda: told(telemetry).get("unreachable"))
    telemetry.close(0.1)
    fates = told(telemetry)
    assert set(fates) <= {"unreachable", "queue_full", "ended"}
    assert sum(fates.values()) == RECORDS


def test_a_collector_that_ends_the_connection_without_an_answer_is_tried_again(running, collector, connection):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        telemetry = running(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{listener.getsockname()[1]}")
        telemetry.connections.consume(connection.records)
        for _ in range(2):
            listener.accept()[0].close()
        telemetry.close(0.1)
    assert set(told(telemetry)) <= {"unreachable", "ended"}
    assert sum(told(telemetry).values()) == 3


def test_a_collector_that_comes_back_gets_what_waited(running, collector, connection):
    collector.status = 503
    telemetry = running(OTEL_EXPORTER_OTLP_TIMEOUT="60")
    telemetry.connections.consume(connection.records)
    await_true(lambda: collector.reached == 2)
    assert told(telemetry) == {"waiting": 3}
    collector.status = 200
    await_true(lambda: told(telemetry) == {"exported": 3})


def test_a_collector_that_goes_on_refusing_costs_spans_and_they_are_counted(running, collector, connection):
    collector.status = 503
    telemetry = running(OTEL_EXPORTER_OTLP_TIMEOUT="0.1")
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"refused": 3})


@pytest.mark.parametrize("status", [429, 503])
def test_a_collector_that_asks_for_time_gets_it(running, collector, connection, status):
    collector.status, collector.answer_headers = status, {"Retry-After": "2"}
    telemetry = running(OTEL_EXPORTER_OTLP_TIMEOUT="60")
    telemetry.connections.consume(connection.records)
    await_true(lambda: collector.reached == 1)
    first, collector.status = time.monotonic(), 200
    await_true(lambda: told(telemetry) == {"exported": 3})
    assert time.monotonic() - first > 1.5
    assert collector.reached == 2


def test_a_collector_that_asks_for_long_is_not_asked_again_and_holds_up_no_end(loaded, collector):
    collector.status, collector.answer_headers = 429, {"Retry-After": "3600"}
    telemetry = loaded()
    await_true(lambda: collector.reached == 1)
    collector.answer_headers = {}
    telemetry.close(0.5)
    fates = told(telemetry)
    assert set(fates) <= {"refused", "queue_full", "ended"}
    assert sum(fates.values()) == RECORDS


def test_a_batch_that_is_refused_for_good_is_not_sent_again(running, collector, connection):
    collector.status = 400
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"refused": 3})
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"refused": 6})
    assert collector.reached == 2


def test_spans_that_a_collector_rejects_of_a_batch_are_counted(running, collector, connection):
    collector.rejected = 2
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"exported": 1, "rejected": 2})


def test_a_header_that_cannot_be_sent_costs_spans_and_they_are_counted(running, connection):
    telemetry = running(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=%E2%82%AC")
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"unreachable": 3})
    telemetry.connections.consume(connection.records)
    await_true(lambda: told(telemetry) == {"unreachable": 6})


def test_the_end_does_not_wait_for_a_collector_that_hangs(running, collector, connection):
    collector.hold()
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: collector.reached == 1)
    telemetry.close(0.2)  # and the collector, which answers only after the test, has not answered
    assert collector.spans() == []
    assert told(telemetry) == {"ended": 3}
    telemetry.connections.consume(connection.records)
    assert told(telemetry) == {"ended": 6}


def test_what_arrives_after_the_end_was_counted_is_not_counted_twice(running, collector, connection):
    collector.hold()
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: collector.reached == 1)
    telemetry.close(0.1)
    collector.release()
    await_true(lambda: not any(thread.name == "wharfinger-spans" for thread in threading.enumerate()))
    assert told(telemetry) == {"ended": 3}


def test_a_failing_collector_is_logged_once_and_so_is_its_return(running, collector, connection, caplog):
    collector.status = 400
    telemetry = running()
    with caplog.at_level(logging.INFO):
        for count in (3, 6):
            telemetry.connections.consume(connection.records)
            await_true(lambda count=count: told(telemetry).get("refused") == count)
        collector.status = 200
        telemetry.connections.consume(connection.records)
        await_true(lambda: told(telemetry).get("exported") == 3)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("wharfinger_dataplane.telemetry")]
    assert lines == [f"the collector at {collector.url}/v1/traces takes no spans (refused): it answered 400 Bad Request",
                     f"the collector at {collector.url}/v1/traces takes spans"]


def test_reconciles_wait_for_no_collector_either(loaded, collector):
    collector.hold()
    telemetry = loaded()
    before = telemetry.queue.counts().dropped["queue_full"]
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1, 2, 3)
    assert telemetry.queue.counts().dropped["queue_full"] == before + 1


def test_the_thread_that_exports_goes_behind_the_others(running):
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    others = set(threading.enumerate())  # another test's exporter may still be on its way to its end
    running()
    (thread,) = (thread for thread in set(threading.enumerate()) - others if thread.name == "wharfinger-spans")
    await_true(lambda: os.getpriority(os.PRIO_PROCESS, thread.native_id) >= BEHIND)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.parametrize(("text", "seconds"), [
    ("7", 7.0), (" 0 ", 0.0), ("", None), ("soon", None), ("-1", None), (formatdate(1_000_030, usegmt=True), 30.0),
    (formatdate(999_000, usegmt=True), 0.0),
])
def test_a_retry_after_is_a_number_or_a_date(text, seconds):
    assert _pause_s(text, 1_000_000) == seconds
