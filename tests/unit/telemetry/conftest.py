"""One connection's records, and who would have made spans of them."""

import pytest
from support.otlp import role_of, running_collector, spans_of
from unit.telemetry.packets import CLIENT, KEY, SECRET, Connection, make_slice
from wharfinger_dataplane.telemetry import ConnectionSpans, Names, PodName, Sampling, settings_from, start


class Collected:
    """A queue's place: keeps what is offered."""

    def __init__(self):
        self.fields = []

    def offer(self, spans):
        self.fields.extend(spans)

    @property
    def spans(self):
        return spans_of(self.fields)


@pytest.fixture
def connection():
    return Connection().open().close()


@pytest.fixture
def names():
    found = Names()
    found.update([make_slice()], [PodName(CLIENT, "demo/client-0", "node-1")])
    return found


@pytest.fixture
def consumer(names):
    """The agent's consumer of records, at a ratio; with no queue there is no collector."""
    return lambda queue, ratio=1.0, names=names, **options: ConnectionSpans(KEY, Sampling.of_ratio(ratio), names, queue, **options)


@pytest.fixture
def collected():
    return Collected()


@pytest.fixture
def spans_from(consumer, collected):
    """Role -> span, of records."""
    def make(records, **options):
        consumer(collected, **options).consume(records)
        return {role_of(span): span for span in collected.spans}
    return make


@pytest.fixture
def collector():
    with running_collector() as found:
        yield found


@pytest.fixture
def environment(monkeypatch, collector):
    """Sets variables for OpenTelemetry and us alike; the end point is the collector's."""
    def set_to(**variables):
        usual = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "WHARFINGER_TRACE_KEY": SECRET.hex(), "OTEL_BSP_SCHEDULE_DELAY": "20"}
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
        telemetry.close(0.1)
