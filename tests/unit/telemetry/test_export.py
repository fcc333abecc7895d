"""The way out, against a real HTTP server that reads the protobuf as a collector does."""

import threading
import time

import pytest
from support.otlp import role_of
from unit.telemetry.packets import KEY, SECRET
from wharfinger_dataplane.telemetry import TelemetryError, settings_from

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def await_true(condition, within_s=30.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.01)


def test_a_connection_reaches_the_collector_as_one_trace(running, collector, connection):
    running().connections.consume(connection.records)
    await_true(lambda: len(collector.spans()) == 3)
    spans = {role_of(span): span for span in collector.spans()}
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
    (scope,) = (scope.scope for of in collector.requests[0].resource_spans for scope in of.scope_spans)
    assert (scope.name, scope.version) == ("wharfinger", "0.1.0")


def test_opentelemetrys_variables_are_honoured(running, collector, connection):
    running(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=wharf", OTEL_SERVICE_NAME="another").connections.consume(connection.records)
    await_true(lambda: collector.requests)
    path, headers = collector.headers[0]
    assert path == "/v1/traces"
    assert headers["x-tenant"] == "wharf"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert collector.resource()["service.name"] == "another"


def test_the_variables_of_traces_go_before_the_common_ones(running, collector, connection):
    running(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/of/ours",
            OTEL_EXPORTER_OTLP_HEADERS="x=common", OTEL_EXPORTER_OTLP_TRACES_HEADERS="x=traces").connections.consume(connection.records)
    await_true(lambda: collector.requests)
    path, headers = collector.headers[0]
    assert (path, headers["x"]) == ("/of/ours", "traces")


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_a_batch_is_compressed_when_that_is_asked_for(running, collector, connection, compression):
    running(OTEL_EXPORTER_OTLP_COMPRESSION=compression).connections.consume(connection.records)
    await_true(lambda: len(collector.spans()) == 3)
    assert collector.headers[0][1]["Content-Encoding"] == compression


def test_a_table_write_is_a_span_of_the_reconcile_that_caused_it(running, collector):
    running().tables.table_write(PARENT, ["demo/shop-0"], 1_000, 2_000, 17)
    await_true(lambda: collector.requests)
    (span,) = collector.spans()
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("table write", PARENT[3:35], PARENT[36:52])
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 2_000)
    values = {attribute.key: attribute.value for attribute in span.attributes}
    assert values["wharfinger.table.writes"].int_value == 17
    assert [value.string_value for value in values["wharfinger.slices"].array_value.values] == ["demo/shop-0"]


def test_spans_of_connections_and_of_table_writes_share_a_batch(running, collector, connection):
    telemetry = running(OTEL_BSP_SCHEDULE_DELAY="60000")
    telemetry.connections.consume(connection.records)
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1_000, 2_000, 17)
    telemetry.close()
    (request,) = collector.requests
    assert len(request.resource_spans) == 1
    assert sorted(role_of(span) for span in collector.spans()) == ["balancer", "client", "server", "table"]


@pytest.mark.parametrize("traceparent", ["", "garbage", PARENT[:-2] + "00", "ff" + PARENT[2:], "00-" + "0" * 32 + PARENT[35:]])
def test_a_reconcile_that_is_not_traced_gets_no_span(running, collector, traceparent):
    telemetry = running()
    telemetry.tables.table_write(traceparent, ["demo/shop-0"], 1_000, 2_000, 17)
    telemetry.close()
    assert collector.requests == []


def test_no_request_is_larger_than_a_proxy_before_a_collector_takes(running, collector):
    telemetry = running(OTEL_BSP_SCHEDULE_DELAY="60000")
    for number in range(900):
        telemetry.tables.table_write(PARENT, [f"demo/{'shop' * 400}-{number}"], 1_000, 2_000, 17)
    telemetry.close(30)
    assert len(collector.spans()) == 900
    assert max(int(headers["Content-Length"]) for _, headers in collector.headers) < 1 << 20
    assert len(collector.requests) == 2


def test_a_span_that_is_larger_than_a_request_should_be_goes_alone(running, collector):
    telemetry = running(OTEL_BSP_SCHEDULE_DELAY="60000")
    for slices in (["demo/shop-0"], ["demo/shop-0" * 100_000], ["demo/shop-0"]):
        telemetry.tables.table_write(PARENT, slices, 1_000, 2_000, 17)
    telemetry.close(30)
    assert len(collector.requests) == 3
    assert len(collector.spans()) == 3


def test_what_waits_at_the_end_is_sent(running, collector, connection):
    telemetry = running(OTEL_BSP_SCHEDULE_DELAY="60000")
    telemetry.connections.consume(connection.records)
    telemetry.close()
    assert len(collector.spans()) == 3
    assert telemetry.counters()["spans_exported", ""] == 3


@pytest.mark.parametrize("variables", [
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"},
])
def test_without_an_end_point_nothing_runs_and_nothing_is_wanted(running, connection, variables):
    before = threading.active_count()
    telemetry = running(**variables)
    telemetry.connections.consume(connection.records)
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1, 2, 3)
    assert not telemetry.sampling.wanted
    assert threading.active_count() == before
    assert set(telemetry.counters().values()) == {0}


def test_a_reconcile_is_traced_though_no_connection_is(running, collector):
    telemetry = running(OTEL_TRACES_SAMPLER="always_off", WHARFINGER_TRACE_KEY="")
    assert not telemetry.sampling.wanted
    telemetry.tables.table_write(PARENT, ["demo/shop-0"], 1, 2, 3)
    await_true(lambda: collector.requests)


def test_the_key_may_come_from_a_file(environment, tmp_path):
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    assert settings_from(environment(WHARFINGER_TRACE_KEY="", WHARFINGER_TRACE_KEY_FILE=str(path))).key == KEY


@pytest.mark.parametrize("name, value", [
    ("WHARFINGER_TRACE_KEY", "not hexadecimal"), ("WHARFINGER_TRACE_KEY", "00ff"), ("WHARFINGER_TRACE_KEY", ""),
    ("OTEL_TRACES_SAMPLER", "sometimes"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), ("OTEL_BSP_SCHEDULE_DELAY", "soon"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
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
    assert settings.sampling.traced == 1 << 54
