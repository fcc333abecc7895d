"""Machines that boot a kernel, run pytest and end: emulated, so no privilege and no /dev/kvm is asked for.
What they say on the serial console is kept; what they found comes back as an archive on a disk of its own."""

from __future__ import annotations

import json
import subprocess
import tarfile
import xml.etree.ElementTree as Xml
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.errors import BuildError
from testbed.progress import tail

BOUND_S = 1200
"""A guest that takes longer hangs. It takes a fifth of that on a quiet machine."""
RESULTS_MB = 16
CONSOLE_LINES = 60
MACHINE = "-accel tcg -m 1536 -display none -monitor none -nic none -no-reboot"


@dataclass(frozen=True)
class Machine:
    """What emulates an architecture: the program, its own options, and the kernel's name of the serial
    console."""

    qemu: str
    options: str
    console: str


MACHINES = {"amd64": Machine("qemu-system-x86_64", "-cpu max", "ttyS0"),
            "arm64": Machine("qemu-system-aarch64", "-M virt -cpu cortex-a72", "ttyAMA0")}
"""By Debian's name of the architecture."""
COMPLETE = "wharfinger-guest: complete"
TIMED_OUT = 124
"""timeout(1)'s exit code."""


class GuestError(BuildError):
    """The guest did not come to its end: the kernel's panic, a hang, results that are missing. The console's
    last lines are in the words."""


@dataclass(frozen=True)
class Disks:
    """What a guest of an architecture boots from."""

    arch: str
    kernel: Path
    initial: Path
    system: Path
    checkout: Path


@dataclass(frozen=True)
class Case:
    """One test that ran in a guest."""

    file: str
    name: str
    outcome: str
    text: str


@dataclass(frozen=True)
class Results:
    """What a guest found. `facts`: what its tests wrote down, by name."""

    cases: tuple[Case, ...]
    output: str
    facts: Mapping[str, object] = field(default_factory=dict)

    def of(self, path: str) -> tuple[Case, ...]:
        """The tests of a file or folder."""
        module = path.removesuffix(".py").replace("/", ".")
        return tuple(case for case in self.cases if case.file == module or case.file.startswith(f"{module}."))


def boot(disks: Disks, folder: Path, tests: Sequence[str], bound_s: int = BOUND_S, **words: str) -> Results:
    """Runs the tests in a guest, and gives what it found; GuestError when it does not come to its end.
    `folder`: where the console and the results are kept; `words`: what tests read as WHARFINGER_<WORD>."""
    folder.mkdir(parents=True, exist_ok=True)
    console, results = folder / "console.log", folder / "results.tar"
    with results.open("wb") as made:
        made.truncate(RESULTS_MB << 20)
    console.write_bytes(b"")
    # timeout(1) ends the guest even when this process was killed before.
    machine = MACHINES[disks.arch]
    command = ["timeout", str(bound_s), machine.qemu, *machine.options.split(), *MACHINE.split()]
    command += ["-serial", f"file:{console}"]
    command += ["-kernel", disks.kernel, "-initrd", disks.initial]
    command += ["-append", kernel_line(machine.console, {"tests": ",".join(tests), **words})]
    command += [*_disk(disks.system, "snapshot=on"), *_disk(disks.checkout, "snapshot=on")]
    command += _disk(results, "cache=unsafe")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = f"Its console:\n{tail(console, CONSOLE_LINES)}"
    if done.returncode == TIMED_OUT:
        raise GuestError(f"the guest did not end within {bound_s} s. {said}")
    if done.returncode:
        why = f"exit code {done.returncode}: {done.stderr.strip()}"
        raise GuestError(f"{machine.qemu} failed with {why}. {said}")
    if COMPLETE not in console.read_text(errors="replace"):
        raise GuestError(f"the guest ended before its tests did. {said}")
    try:
        return read(results)
    except (tarfile.TarError, KeyError, ValueError, Xml.ParseError) as error:
        raise GuestError(f"pytest left no results that can be read ({error!r}). {said}") from error


def kernel_line(console: str, words: Mapping[str, str]) -> str:
    """The kernel's command line. A panic or an oops ends the guest."""
    return " ".join((f"console={console} quiet panic=-1 oops=panic net.ifnames=0",
                     *(f"wharfinger.{name}={word}" for name, word in words.items())))


def _disk(file: Path, *more: str) -> list[str]:
    return ["-drive", ",".join((f"file={file}", "format=raw", "if=virtio", *more))]


def read(archive: Path) -> Results:
    """What the guest's archive says."""
    with tarfile.open(archive) as opened:
        files = {Path(member.name).name: opened.extractfile(member).read().decode(errors="replace")
                 for member in opened if member.isfile()}
    facts = json.loads(files.get("facts.json", "{}"))
    return Results(tuple(cases(files["junit.xml"])), files["output.txt"], facts)


def cases(junit: str) -> list[Case]:
    """The tests that pytest's JUnit file tells of."""
    found = []
    for each in Xml.fromstring(junit).iter("testcase"):
        told = [
            (child.tag, f"{child.get('message', '')}\n{child.text or ''}")
            for child in each
            if child.tag in ("failure", "error", "skipped")
        ]
        outcome, text = told[0] if told else ("passed", "")
        found.append(Case(each.get("classname", ""), each.get("name", ""), outcome, text))
    return found
