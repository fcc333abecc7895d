import pytest
from unit.agent.apiserver import running
from unit.agent.collecting import IDLE, Memory, Pods
from wharfinger_dataplane.agent import flows
from wharfinger_dataplane.agent.cluster import Access, Cluster
from wharfinger_dataplane.agent.flows import Collector


@pytest.fixture
def api():
    with running() as server:
        yield server


@pytest.fixture
def cluster(api):
    cluster = Cluster(Access(api.url, ""))
    yield cluster
    cluster.close()


@pytest.fixture
def pods(monkeypatch):
    found = Pods()
    monkeypatch.setattr(flows, "PAUSE_S", 0)
    monkeypatch.setattr(flows.netlink, "connections", found.listed)
    monkeypatch.setattr(flows.netlink, "connected", lambda channel, one: one in found.shown[channel.address])
    return found


@pytest.fixture
def store():
    return Memory()


@pytest.fixture
def told():
    """The pods that the API server tells of."""
    return set()


@pytest.fixture
def collector(store, pods, told):
    return Collector(store, pods, told.__contains__, IDLE)
