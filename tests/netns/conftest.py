"""A lab of two nodes for each test, in namespaces and a bpffs of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab import Lab, bpffs


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with bpffs(tmp_path_factory.mktemp("bpffs")) as path:
        yield path


@pytest.fixture
def lab(pins: Path) -> Iterator[Lab]:
    lab = Lab(pins)
    try:
        lab.add_node()
        lab.add_node()
        yield lab
    finally:
        lab.close()
