"""What the tests of one kernel share: the programs, loaded once for all of them as the verifier takes long
under emulation, and a file of facts that leaves the guest with the results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.lab import OBJECT, bpffs
from wharfinger_dataplane import _bpf
from wharfinger_dataplane.attach import Mode

MODES = [Mode(word) for word in os.environ["WHARFINGER_MODES"].split("+")]
"""How programs can be attached in this kernel, as tests/kernels/debian.py has it: what the kernel shall have,
not what it was found to have."""


@dataclass(frozen=True)
class Loaded:
    """A client's node, a server's node, and the server's node again as its next agent has it: with the maps
    that are pinned there already."""

    client: _bpf.Object
    server: _bpf.Object
    successor: _bpf.Object


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with bpffs(tmp_path_factory.mktemp("bpffs")) as path:
        yield path


@pytest.fixture(scope="session")
def loaded(pins: Path) -> Iterator[Loaded]:
    found = Loaded(*(_bpf.Object(OBJECT, pins / name) for name in ("client", "server", "server")))
    yield found
    for each in (found.client, found.server, found.successor):
        each.close()


@pytest.fixture
def modes() -> list[Mode]:
    return MODES


@pytest.fixture
def note(request: pytest.FixtureRequest):
    """Writes a fact down."""

    def write(name: str, value: object) -> None:
        file = Path(os.environ["WHARFINGER_RESULTS"], "facts.json")
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, name: value}))

    return write


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES)
