"""The tests of tests/kernels/guest and the packet vectors, in each of Debian's kernels and, but for the
vectors, in this machine's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernels import debian, disks
from kernels.debian import KERNELS, Kernel
from kernels.guests import BOUND_S, Disks, GuestError, Results, boot, cases
from testbed.errors import BuildError
from testbed.progress import Reporter, spell

GUEST_TESTS = "tests/kernels/guest"
VECTORS = ("tests/vectors/test_vectors.py", "tests/vectors/test_malformed.py")
OWN = "this machine's"
TCX_SINCE = (6, 6)
AT_ONCE = 2
"""Guests, each of which keeps a processor busy."""

Outcome = Results | BuildError


def run_all(cache: Path, reporter: Reporter) -> Mapping[str, Outcome]:
    """What each kernel came to, by its version, this machine's by OWN. A guest that did not come to its end
    is an outcome too."""
    with tempfile.TemporaryDirectory(prefix="wharfinger-kernels-") as folder:
        made = prepare(cache, Path(folder), reporter)
        works: dict[str, Callable[[], Results]] = {
            kernel.version: lambda kernel=kernel: boot(
                made[kernel],
                Path(folder, kernel.version),
                (GUEST_TESTS, *VECTORS),
                modes="+".join(kernel.modes),
            )
            for kernel in KERNELS
        }
        works[OWN] = lambda: here(Path(folder, "own"))
        with (
            reporter.task("kernels-run", f"Testing in the kernels {', '.join(works)}", 240),
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            return dict(
                zip(works, pool.map(lambda name: _told(name, works[name], reporter), works), strict=True)
            )


def prepare(
    cache: Path, folder: Path, reporter: Reporter, kernels: Sequence[Kernel] = KERNELS
) -> Mapping[Kernel, Disks]:
    """Everything that guests boot from; what is not in the cache is fetched and made."""
    system, checkout = disks.system(cache, reporter), disks.checkout(folder / "checkout.ext4")
    out = {}
    for kernel in kernels:
        unpacked = debian.unpacked(kernel, cache, reporter)
        out[kernel] = Disks(unpacked.image, disks.initial(unpacked, cache), system, checkout)
    return out


def here(folder: Path) -> Results:
    """The same tests in this machine's kernel, by a pytest of their own as in a guest."""
    folder.mkdir()
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    environment = {
        **os.environ,
        "WHARFINGER_RESULTS": str(folder),
        "WHARFINGER_MODES": "tcx+clsact" if release >= TCX_SINCE else "clsact",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={folder / 'junit.xml'}",
        GUEST_TESTS,
    ]
    try:
        done = subprocess.run(
            command,
            cwd=disks.TOP,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        facts = folder / "facts.json"
        return Results(
            tuple(cases((folder / "junit.xml").read_text())),
            done.stdout,
            json.loads(facts.read_text()) if facts.exists() else {},
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise GuestError(
            f"the tests in this machine's own kernel did not come to their end: {error}"
        ) from error


def _told(name: str, work: Callable[[], Results], reporter: Reporter) -> Outcome:
    began = time.monotonic()
    try:
        results = work()
    except BuildError as error:
        reporter.say(f"Kernel {name}: {str(error).splitlines()[0]}")
        return error
    passed = sum(case.outcome == "passed" for case in results.cases)
    reporter.say(
        f"Kernel {name} ({results.facts.get('release', 'unknown')}): {passed} of {len(results.cases)} tests "
        f"passed after {spell(time.monotonic() - began)}"
    )
    return results
