"""One connection's records, and who would have made spans of them."""

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from unit.telemetry.packets import CLIENT, Connection, make_slice
from wharfinger_dataplane.telemetry import Names, PodName
from wharfinger_dataplane.telemetry._spans import Emitter


@pytest.fixture
def connection():
    return Connection().open().close()


@pytest.fixture
def names():
    found = Names()
    found.update([make_slice()], [PodName(CLIENT, "demo/client-0", "node-1")])
    return found


@pytest.fixture
def emitter():
    return Emitter(Resource({"service.name": "wharfinger-agent"}), InstrumentationScope("wharfinger", "0.1.0"))
