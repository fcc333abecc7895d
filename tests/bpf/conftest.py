"""A BPF file system of the tests' own, and the programs loaded afresh for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.lab import OBJECT, bpffs
from wharfinger_dataplane import _bpf
from wharfinger_dataplane.kernel import CONNECTION_TABLES


@pytest.fixture(scope="session")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with bpffs(tmp_path_factory.mktemp("bpffs")) as path:
        yield path


@pytest.fixture
def pins(file_system: Path) -> Iterator[Path]:
    path = file_system / "node"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def load(pins: Path) -> Iterator[Callable[[], _bpf.Object]]:
    """Loads the programs as an agent does at its start, with tables of connections that are quickly made."""
    loaded: list[_bpf.Object] = []

    def work(flows: int = 1024) -> _bpf.Object:
        loaded.append(_bpf.Object(OBJECT, pins, max_entries=dict.fromkeys(CONNECTION_TABLES, flows)))
        return loaded[-1]

    yield work
    for each in loaded:
        each.close()
