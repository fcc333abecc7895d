"""One cluster for all tests here: the release from this checkout, Jaeger and the example shop, as `make demo` leaves it."""

from __future__ import annotations

import pytest
from release import OTLP, Release
from testbed import Cluster

LAST = "test_lifecycle.py"
"""It takes the release away."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == LAST)


@pytest.fixture(scope="session")
def wharfinger() -> Release:
    """The release, installed with today's images and running; the cluster stays up for the next run."""
    release = Release(Cluster.ensure())
    release.images()
    release.install(f"telemetry.otlpEndpoint={OTLP.format(address=release.jaeger())}")
    release.refresh()
    release.shop()
    return release
