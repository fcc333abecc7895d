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

BOUND_S = 900
"""A guest that takes longer hangs. It takes a quarter of that on a quiet machine."""
MEMORY_MB = 1536
RESULTS_MB = 16
CONSOLE_LINES = 60
QEMU = "qemu-system-x86_64"


class GuestError(BuildError):
    """The guest did not come to its end: the kernel's panic, a hang, results that are missing. The console's
    last lines are in the words."""


@dataclass(frozen=True)
class Disks:
    """What a guest boots from."""

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


def boot(disks: Disks, folder: Path, tests: Sequence[str], **words: str) -> Results:
    """Runs the tests in a guest, and gives what it found. `folder`: where the console and the results are
    kept."""
    folder.mkdir(parents=True, exist_ok=True)
    console, results = folder / "console.log", folder / "results.tar"
    with results.open("wb") as made:
        made.truncate(RESULTS_MB << 20)
    given = {"tests": ",".join(tests), **words}
    line = " ".join(
        (
            "console=ttyS0",
            "quiet",
            "panic=-1",
            "oops=panic",
            "net.ifnames=0",
            *(f"wharfinger.{name}={word}" for name, word in given.items()),
        )
    )
    command = [
        QEMU,
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        str(MEMORY_MB),
        "-display",
        "none",
        "-no-reboot",
        "-nic",
        "none",
        "-kernel",
        disks.kernel,
        "-initrd",
        disks.initial,
        "-append",
        line,
        *_disk(disks.system, "snapshot=on"),
        *_disk(disks.checkout, "snapshot=on"),
        *_disk(results, "cache=unsafe"),
        "-serial",
        f"file:{console}",
        "-monitor",
        "none",
    ]
    console.write_bytes(b"")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND_S, check=False
        )
    except subprocess.TimeoutExpired as hang:
        raise GuestError(
            f"the guest did not end within {BOUND_S} s. Its console:\n{tail(console, CONSOLE_LINES)}"
        ) from hang
    if done.returncode:
        raise GuestError(
            f"{QEMU} failed with exit code {done.returncode}: {done.stderr.strip()}\n"
            f"{tail(console, CONSOLE_LINES)}"
        )
    if "wharfinger-guest: complete" not in console.read_text(errors="replace"):
        raise GuestError(
            f"the guest ended before its tests did. Its console:\n{tail(console, CONSOLE_LINES)}"
        )
    return read(results, console)


def _disk(file: Path, *more: str) -> list[str]:
    return ["-drive", ",".join((f"file={file}", "format=raw", "if=virtio", *more))]


def read(results: Path, console: Path) -> Results:
    """What the archive says; GuestError when something is missing in it."""
    try:
        with tarfile.open(results) as archive:
            files = {
                Path(member.name).name: archive.extractfile(member).read().decode(errors="replace")
                for member in archive
                if member.isfile()
            }
        return Results(
            tuple(cases(files["junit.xml"])), files["output.txt"], json.loads(files.get("facts.json", "{}"))
        )
    except (tarfile.TarError, KeyError, ValueError, Xml.ParseError) as error:
        raise GuestError(
            f"the guest's results cannot be read ({error!r}). Its console:\n{tail(console, CONSOLE_LINES)}"
        ) from error


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
