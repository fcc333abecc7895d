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
from functools import partial
from pathlib import Path

from kernels import debian, disks, foreign
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
Work = Callable[[], Results]


def run_all(cache: Path, reporter: Reporter, kernels: Sequence[Kernel] = KERNELS) -> Mapping[str, Outcome]:
    """What each kernel came to, by its version, this machine's by OWN. A guest that did not come to its end
    is an outcome too. The kernels are of one architecture."""
    with tempfile.TemporaryDirectory(prefix="wharfinger-kernels-") as folder:
        made = prepare(cache, Path(folder), reporter, kernels)

        def guest(kernel: Kernel) -> Results:
            modes = "+".join(kernel.modes)
            return boot(made[kernel], Path(folder, kernel.version), (GUEST_TESTS, *VECTORS), modes=modes)

        works: dict[str, Work] = {kernel.version: partial(guest, kernel) for kernel in kernels}
        if kernels == KERNELS:
            works[OWN] = lambda: here(Path(folder, "own"))
        title = f"Testing in the kernels {', '.join(works)}"
        with reporter.task(f"kernels-run-{kernels[0].arch}", title, 240), ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = pool.map(lambda name: _told(name, works[name], reporter), works)
            return dict(zip(works, outcomes, strict=True))


def prepare(cache: Path, folder: Path, reporter: Reporter,
            kernels: Sequence[Kernel] = KERNELS) -> Mapping[Kernel, Disks]:
    """Everything that guests boot from; what is not in the cache is fetched and made."""
    arch, place, busybox = kernels[0].arch, folder / "checkout.ext4", disks.BUSYBOX
    if arch in foreign.TRIPLETS:
        root = foreign.debian_root(arch, cache, reporter)
        system, checkout = foreign.system(arch, cache, reporter), foreign.checkout(place, arch, root)
        busybox = root / "bin/busybox"
    else:
        system, checkout = disks.system(cache, reporter), disks.checkout(place)
    unpacked = {kernel: debian.unpacked(kernel, cache, reporter) for kernel in kernels}
    return {kernel: Disks(kernel.arch, found.image, disks.initial(found, cache, busybox), system, checkout)
            for kernel, found in unpacked.items()}


def here(folder: Path) -> Results:
    """The same tests in this machine's kernel, by a pytest of their own as in a guest."""
    folder.mkdir()
    junit, facts = folder / "junit.xml", folder / "facts.json"
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    environment = {**os.environ, "WHARFINGER_RESULTS": str(folder),
                   "WHARFINGER_MODES": "tcx+clsact" if release >= TCX_SINCE else "clsact"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={junit}", GUEST_TESTS]
    try:
        done = subprocess.run(command, cwd=disks.TOP, env=environment, capture_output=True, text=True,
                              timeout=BOUND_S, check=False)
        known = json.loads(facts.read_text()) if facts.exists() else {}
        return Results(tuple(cases(junit.read_text())), done.stdout, known)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise GuestError(f"the tests in this machine's kernel did not come to their end: {error}") from error


def _told(name: str, work: Work, reporter: Reporter) -> Outcome:
    began = time.monotonic()
    try:
        results = work()
    except BuildError as error:
        reporter.say(f"Kernel {name}: {str(error).splitlines()[0]}")
        return error
    passed, count = sum(case.outcome == "passed" for case in results.cases), len(results.cases)
    release, took = results.facts.get("release", "its release is not known"), spell(time.monotonic() - began)
    reporter.say(f"Kernel {name} ({release}): {passed} of {count} tests passed after {took}")
    return results
