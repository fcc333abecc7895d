"""The programs in the kernels that users have: Debian 12's, Debian 13's, this machine's (docs/kernels.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from kernels import table
from kernels.debian import KERNELS
from kernels.disks import TOP
from kernels.guests import BOUND_S, Disks, GuestError, Results, boot
from kernels.runs import OWN, VECTORS, Outcome, prepare, run_all
from testbed.cache import Durations
from testbed.progress import Reporter
from testbed.settings import cache_directory

GUESTS = [kernel.version for kernel in KERNELS]
PAGE = TOP / "docs" / "kernels.md"
pytestmark = pytest.mark.timeout(2 * BOUND_S + 600)


def reporter() -> Reporter:
    return Reporter(Durations(cache_directory() / "durations.json"))


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Mapping[str, Outcome]:
    """By the kernel's version. What is going on is shown all the while: it takes minutes."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(flush=True)
        return run_all(cache_directory(), reporter())


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Disks:
    """Of the first kernel."""
    return prepare(cache_directory(), tmp_path_factory.mktemp("disks"), reporter(), KERNELS[:1])[KERNELS[0]]


def results(outcomes: Mapping[str, Outcome], kernel: str) -> Results:
    if isinstance(outcomes[kernel], Exception):
        pytest.fail(str(outcomes[kernel]), pytrace=False)
    return outcomes[kernel]


def assert_passed(found: Results, path: str) -> None:
    """All tests of a file, of which there are some, and none was left out."""
    cases = found.of(path)
    bad = [case for case in cases if case.outcome != "passed"]
    if bad or not cases:
        said = "\n\n".join(f"{case.name}: {case.outcome}\n{case.text[-4000:]}" for case in bad[:3])
        pytest.fail(f"{path}: {len(bad)} of {len(cases)} tests did not pass\n{said or found.output[-4000:]}",
                    pytrace=False)


@pytest.mark.parametrize("kernel", [*GUESTS, OWN])
def test_every_program_loads_and_is_attached_in_each_way_that_the_kernel_has(outcomes, kernel):
    assert_passed(results(outcomes, kernel), "tests/kernels/guest/test_programs.py")


@pytest.mark.parametrize("kernel", GUESTS)
@pytest.mark.parametrize("path", VECTORS)
def test_packets_fare_as_the_vectors_say(outcomes, kernel, path):
    assert_passed(results(outcomes, kernel), path)


@pytest.mark.parametrize("kernel", [*GUESTS, OWN])
def test_a_connection_lives_through_a_change_of_agents(outcomes, kernel):
    assert_passed(results(outcomes, kernel), "tests/kernels/guest/test_agents.py")


@pytest.mark.parametrize("kernel", [*GUESTS, OWN])
def test_the_verifier_has_no_more_to_look_at_than_the_documents_say(outcomes, kernel):
    """Of this machine's kernel the page need not know."""
    facts = results(outcomes, kernel).facts
    assert "instructions" in facts, "the programs were not loaded"
    written = table.read(PAGE.read_text()).get(table.series(facts["release"]))
    if written is None and kernel == OWN:
        return
    assert table.differences(written or {}, facts["instructions"]) == [], "run `make kernels-table`"


def test_a_guest_that_panics_is_a_failure_and_its_console_is_shown(disks: Disks, tmp_path: Path):
    nothing = tmp_path / "nothing"
    nothing.write_bytes(bytes(1 << 20))
    with pytest.raises(GuestError, match=r"(?s)ended before its tests did.*Kernel panic"):
        boot(replace(disks, checkout=nothing), tmp_path, ["tests/vectors"], bound_s=120)


def test_a_guest_that_hangs_is_a_failure(disks: Disks, tmp_path: Path):
    with pytest.raises(GuestError, match="did not end within 1 s"):
        boot(disks, tmp_path, ["tests/vectors"], bound_s=1)
