"""The way out, against a real HTTP server that reads the protobuf as a collector does."""

import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from unit.telemetry.packets import CLIENT, KEY, Connection, make_slice
from wharfinger_dataplane.telemetry import PodName, TelemetryError, settings_from, start

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Takes OTLP over HTTP; waits `delay_s` before it answers, and answers `status`."""

    def __init__(self):
        self.requests, self.headers, self.delay_s, self.status = [], [], 0.0, 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(collector.delay_s)
                collector.headers.append((self.path, self.headers))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_words):
                """Says nothing: the tests' output is theirs."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self):
        resources = [resource for request in self.requests for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def resource(self):
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {attribute.key: attribute.value.string_value for attribute in attributes}

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector():
    found = Collector()
    yield found
    found.close()


@pytest.fixture
def environment(monkeypatch, collector):
    """Sets variables for OpenTelemetry and us alike; the end point is the collector's."""
    def set_to(**variables):
        usual = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "WHARFINGER_TRACE_KEY": KEY.hex(), "OTEL_BSP_SCHEDULE_DELAY": "20"}
        for name, value in (usual | variables).items():
            monkeypatch.setenv(name, value)
        return usual | variables
    return set_to


@pytest.fixture
def running(environment):
    """Telemetry as the agent starts it."""
    found = []

    def begin(**variables):
        telemetry = start(settings_from(environment(**variables)), "node-1", "0.1.0")
        telemetry.names.update([make_slice()], [PodName(CLIENT, "demo/client-0", "node-1")])
        found.append(telemetry)
        return telemetry
    yield begin
    for telemetry in found:
        telemetry.close()


def await_true(condition, within_s=5.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.01)


def test_a_connection_reaches_the_collector_as_one_trace(running, collector, connection):
    running().connections.consume(connection.records)
    await_true(lambda: len(collector.spans()) == 3)
    spans = {span.name.split()[0]: span for span in collector.spans()}
    assert len({span.trace_id for span in spans.values()}) == 1
    assert spans["client"].parent_span_id == b""
    assert spans["balancer"].parent_span_id == spans["client"].span_id
    assert spans["server"].parent_span_id == spans["balancer"].span_id
    assert [event.name for event in spans["client"].events] == ["established"]


def test_the_resource_names_service_version_and_node(running, collector, connection):
    running(OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=lab").connections.consume(connection.records)
    await_true(lambda: collector.requests)
    resource = collector.resource()
    assert (resource["service.name"], resource["service.version"], resource["k8s.node.name"]) == ("wharfinger-agent", "0.1.0", "node-1")
    assert resource["deployment.environment.name"] == "lab"


def test_opentelemetrys_variables_are_honoured(running, collector, connection):
    running(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=wharf", OTEL_SERVICE_NAME="another").connections.consume(connection.records)
    await_true(lambda: collector.requests)
    path, headers = collector.headers[0]
    assert path == "/v1/traces"
    assert headers["x-tenant"] == "wharf"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert collector.resource()["service.name"] == "another"


def test_a_table_write_is_a_span_of_the_reconcile_that_caused_it(running, collector):
    running().tables.table_write(PARENT, ["demo/shop-0"], 1_000, 2_000, 17)
    await_true(lambda: collector.requests)
    (span,) = collector.spans()
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("table write", PARENT[3:35], PARENT[36:52])
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 2_000)
    values = {attribute.key: attribute.value for attribute in span.attributes}
    assert values["wharfinger.table.writes"].int_value == 17
    assert [value.string_value for value in values["wharfinger.slices"].array_value.values] == ["demo/shop-0"]


@pytest.mark.parametrize("traceparent", ["", "garbage", PARENT[:-2] + "00", "ff" + PARENT[2:], "00-" + "0" * 32 + PARENT[35:]])
def test_a_reconcile_that_is_not_traced_gets_no_span(running, collector, traceparent):
    telemetry = running()
    telemetry.tables.table_write(traceparent, ["demo/shop-0"], 1_000, 2_000, 17)
    telemetry.close()
    assert collector.requests == []


def test_what_waits_at_the_end_is_sent(running, collector, connection):
    telemetry = running(OTEL_BSP_SCHEDULE_DELAY="60000")
    telemetry.connections.consume(connection.records)
    telemetry.close()
    assert len(collector.spans()) == 3
    assert telemetry.counters()["spans_exported"] == 3


def test_a_slow_collector_costs_spans_and_they_are_counted(running, collector):
    collector.delay_s = 1.0
    telemetry = running(OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16")
    records = Connection().open().close().records
    started = time.monotonic()
    for _ in range(100):
        telemetry.connections.consume(records)
    assert time.monotonic() - started < collector.delay_s
    telemetry.close(1.5)
    await_true(lambda: sum(telemetry.counters()[f"spans_{fate}"] for fate in ("exported", "dropped", "lost")) == 300)
    assert telemetry.counters()["records"] == 300
    assert telemetry.counters()["spans_dropped"] > 100


def test_an_absent_collector_costs_spans_and_they_are_counted(running, connection, caplog):
    telemetry = running(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    with caplog.at_level(logging.CRITICAL):
        telemetry.connections.consume(connection.records)
        await_true(lambda: telemetry.counters()["spans_lost"] == 3)
    assert telemetry.counters()["spans_exported"] == 0


def test_a_collector_that_refuses_costs_spans_and_they_are_counted(running, collector, connection):
    collector.status = 400
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: telemetry.counters()["spans_lost"] == 3)


def test_the_end_does_not_wait_for_a_collector_that_hangs(running, collector, connection):
    collector.delay_s = 2.0
    telemetry = running()
    telemetry.connections.consume(connection.records)
    await_true(lambda: threading.active_count() > 3)
    started = time.monotonic()
    telemetry.close(0.2)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("variables", [
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"},
])
def test_without_an_end_point_nothing_runs_and_nothing_is_wanted(running, connection, variables):
    before = threading.active_count()
    telemetry = running(**variables)
    telemetry.connections.consume(connection.records)
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1, 2, 3)
    assert not telemetry.wanted
    assert threading.active_count() == before
    assert set(telemetry.counters().values()) == {0}


def test_a_reconcile_is_traced_though_no_connection_is(running, collector):
    telemetry = running(OTEL_TRACES_SAMPLER="always_off", WHARFINGER_TRACE_KEY="")
    assert not telemetry.wanted
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1, 2, 3)
    await_true(lambda: collector.requests)


def test_the_key_may_come_from_a_file(environment, tmp_path):
    path = tmp_path / "key"
    path.write_bytes(KEY)
    assert settings_from(environment(WHARFINGER_TRACE_KEY="", WHARFINGER_TRACE_KEY_FILE=str(path))).key == KEY


@pytest.mark.parametrize("name, value", [
    ("WHARFINGER_TRACE_KEY", "not hexadecimal"), ("WHARFINGER_TRACE_KEY", "00ff"), ("WHARFINGER_TRACE_KEY", ""),
    ("OTEL_TRACES_SAMPLER", "sometimes"), ("OTEL_BSP_SCHEDULE_DELAY", "soon"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
])
def test_a_setting_that_is_not_understood_is_named(environment, name, value):
    with pytest.raises(TelemetryError, match=name):
        settings_from(environment(**{name: value}))


def test_a_ratio_that_is_none_is_named(environment):
    with pytest.raises(TelemetryError, match="OTEL_TRACES_SAMPLER_ARG is '2'"):
        settings_from(environment(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="2"))


def test_a_key_file_that_is_missing_is_named(environment, tmp_path):
    with pytest.raises(TelemetryError, match="mount the Secret"):
        settings_from(environment(WHARFINGER_TRACE_KEY="", WHARFINGER_TRACE_KEY_FILE=str(tmp_path / "none")))


def test_the_sampler_of_the_chart_is_understood(environment):
    settings = settings_from(environment(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25"))
    assert settings.sampling.threshold == 3 << 54
