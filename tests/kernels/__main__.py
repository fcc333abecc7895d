"""By hand, from tests/: `python -m kernels table` writes the table of docs/kernels.md; `python -m kernels
arm64` runs the tests in arm64's kernels; `python -m kernels 6.1 tests/netns/test_lives.py` runs tests of
one's choice in one kernel and shows what pytest says."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from kernels import table
from kernels.debian import ARM64, KERNELS
from kernels.disks import TOP
from kernels.guests import boot
from kernels.runs import prepare, run_all
from testbed.cache import Durations
from testbed.progress import Reporter
from testbed.settings import cache_directory

PAGE = TOP / "docs" / "kernels.md"


def write_table(cache: Path, reporter: Reporter) -> int:
    """Exit code 1 when a kernel did not load the programs; the page then stays as it was."""
    outcomes = run_all(cache, reporter)
    counts = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, Exception) or "instructions" not in outcome.facts:
            print(outcome if isinstance(outcome, Exception) else outcome.output[-8000:], file=sys.stderr)
            print(f"{PAGE.name} stays as it was: kernel {name} has no counts", file=sys.stderr)
            return 1
        counts[table.series(str(outcome.facts["release"]))] = outcome.facts["instructions"]
    PAGE.write_text(table.replace(PAGE.read_text(), counts))
    return 0


def run_arm64(cache: Path, reporter: Reporter) -> int:
    """Exit code 1 when a kernel did not come to its end, or a test did not pass; what it said is shown."""
    bad = 0
    for version, outcome in run_all(cache, reporter, ARM64).items():
        ended = not isinstance(outcome, Exception)
        if not ended or {case.outcome for case in outcome.cases} != {"passed"}:
            print(outcome.output[-12000:] if ended else outcome, file=sys.stderr)
            print(f"kernel {version} (arm64) failed", file=sys.stderr)
            bad = 1
        else:
            print(f"Kernel {version} (arm64), instructions: {outcome.facts['instructions']}")
    return bad


def run_some(version: str, tests: list[str], cache: Path, reporter: Reporter) -> int:
    """Exit code 1 when a test failed."""
    kernel = next(kernel for kernel in KERNELS if kernel.version == version)
    with tempfile.TemporaryDirectory(prefix="wharfinger-kernels-") as folder:
        disks = prepare(cache, Path(folder), reporter, [kernel])[kernel]
        with reporter.task(f"kernel-{version}-some", f"Testing in kernel {version}", 120):
            found = boot(disks, Path(folder, version), tests, modes="+".join(kernel.modes))
    print(found.output)
    return int(not found.cases or any(case.outcome in ("failure", "error") for case in found.cases))


def main(words: list[str]) -> int:
    cache = cache_directory()
    reporter = Reporter(Durations(cache / "durations.json"))
    versions = [kernel.version for kernel in KERNELS]
    if words == ["table"]:
        return write_table(cache, reporter)
    if words == ["arm64"]:
        return run_arm64(cache, reporter)
    if len(words) > 1 and words[0] in versions:
        return run_some(words[0], words[1:], cache, reporter)
    print(f"{__doc__}\nKernels: {', '.join(versions)}", file=sys.stderr)
    return os.EX_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
