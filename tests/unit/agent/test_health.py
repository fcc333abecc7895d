"""The health port."""

import socket
import struct
import threading
import time
import urllib.error
import urllib.request

import pytest
from wharfinger_dataplane.agent.health import Health, Metric, plain, text
from wharfinger_dataplane.agent.metrics import trace_metrics


def test_metrics_are_prometheus_text():
    metrics = [Metric("a_total", "counter", "Words.", (({"hook": "x", "reason": 'q"\\'}, 3),)), plain("b", "gauge", "More.", 0.25)]
    assert text(metrics) == ('# HELP a_total Words.\n# TYPE a_total counter\na_total{hook="x",reason="q\\"\\\\"} 3\n'
                             "# HELP b More.\n# TYPE b gauge\nb 0.25\n")


def test_dropped_spans_are_one_metric_with_a_series_for_each_reason():
    metrics = trace_metrics({("records", ""): 5, ("spans_dropped", "timeout"): 1, ("spans_dropped", "ended"): 0})
    lines = [line for line in text(metrics).splitlines() if not line.startswith("#")]
    assert lines == ["wharfinger_trace_records_total 5", 'wharfinger_trace_spans_dropped_total{reason="timeout"} 1',
                     'wharfinger_trace_spans_dropped_total{reason="ended"} 0']


@pytest.fixture
def health():
    well = [True]
    server = Health(0, {"/healthz": lambda: (well[0], "words")}, lambda: [plain("up", "gauge", "Up.", 1)])
    server.start()
    yield server, well
    server.stop()


def get(health, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_check_answers_with_its_words(health):
    server, well = health
    assert get(server, "/healthz") == (200, "words\n")
    well[0] = False
    assert get(server, "/healthz") == (503, "words\n")


def test_metrics_are_served(health):
    assert "up 1" in get(health[0], "/metrics")[1]


def test_another_path_is_told_what_there_is(health):
    assert get(health[0], "/") == (404, "there are /healthz, /metrics\n")


def test_a_second_server_on_the_port_is_refused(health):
    with pytest.raises(OSError, match="in use"):
        Health(health[0].port, {}, list)


def test_a_prober_that_does_not_wait_for_the_answer_leaves_no_trace(capfd):
    asked, hung_up = threading.Event(), threading.Event()

    def check():
        asked.set()
        assert hung_up.wait(5)
        return True, "words"

    server = Health(0, {"/healthz": check}, lambda: ())
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as prober:
            prober.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a RST
            prober.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert asked.wait(5)
        hung_up.set()
        while any(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()):
            time.sleep(0.01)
    finally:
        server.stop()
    assert capfd.readouterr().err == ""
