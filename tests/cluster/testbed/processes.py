"""Starting processes that outlive the command, and ending those, and only those, again.

Each start leaves a record with the process's number, when it started and in which boot; a number that has since been given to
another process is therefore never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_S = 0.02
GONE_WITHIN_S = 5.0


@dataclass(frozen=True)
class Record:
    """A process that was started here."""

    name: str
    pid: int
    started_ticks: int
    boot: str

    def alive(self) -> bool:
        """Whether it, and not a later bearer of its number, still runs."""
        return self.boot == boot_id() and started_ticks(self.pid) == self.started_ticks

    def child(self) -> int | None:
        """The number of its first child, if it has one."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children and self.alive() else None


def boot_id() -> str:
    """Differs after every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_ticks(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if it is gone or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Processes:
    """The records of one cluster's processes."""

    def __init__(self, records: Path, logs: Path) -> None:
        self._records = records
        self._logs = logs

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = Path("/")) -> Record:
        """Starts a process in a session of its own, its output appended to its log."""
        for directory in (self._records, self._logs):
            directory.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=env, cwd=cwd, start_new_session=True)
        process.returncode = 0  # it is to outlive this object, and is reaped by number
        record = Record(name, process.pid, started_ticks(process.pid) or 0, boot_id())
        (self._records / f"{name}.json").write_text(json.dumps(asdict(record)))
        return record

    def log(self, name: str) -> Path:
        """The file that a process writes to."""
        return self._logs / f"{name}.log"

    def get(self, name: str) -> Record | None:
        """A process's record, dead or alive."""
        try:
            return Record(**json.loads((self._records / f"{name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> list[Record]:
        """Every record."""
        found = (self.get(path.stem) for path in sorted(self._records.glob("*.json")))
        return [record for record in found if record]

    def kill(self, *names: str) -> None:
        """Ends recorded processes, at once since nothing of theirs is kept, and forgets them."""
        records = [record for record in map(self.get, names) if record]
        for record in records:
            if record.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGKILL)
        deadline = time.monotonic() + GONE_WITHIN_S
        while any(record.alive() for record in records) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for record in records:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(record.pid, os.WNOHANG)
            (self._records / f"{record.name}.json").unlink(missing_ok=True)
