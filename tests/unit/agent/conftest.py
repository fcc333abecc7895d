import pytest
from unit.agent.apiserver import running
from wharfinger_dataplane.agent.cluster import Access, Cluster


@pytest.fixture
def api():
    with running() as server:
        yield server


@pytest.fixture
def cluster(api):
    cluster = Cluster(Access(api.url, ""))
    yield cluster
    cluster.close()
