"""A control group for each node's pods, in every controller of cgroup v1 or in the one tree of v2."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from pathlib import Path

from .errors import ClusterError

V2_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
INHERITED = ("cpuset.cpus", "cpuset.mems")
REMOVE_WITHIN_S = 5.0


def hierarchies(mounts: str) -> list[Path]:
    """Where cgroup trees are mounted, from the text of /proc/mounts."""
    rows = (line.split() for line in mounts.splitlines())
    return [Path(row[1]) for row in rows if row[2] in {"cgroup", "cgroup2"}]


def create(group: str) -> None:
    """Makes a group (`whf0/node-1`) in every hierarchy."""
    trees = hierarchies(Path("/proc/mounts").read_text())
    if not trees:
        raise ClusterError("no cgroup file system is mounted on this machine; mount cgroup2 on /sys/fs/cgroup")
    for tree in trees:
        directory = tree
        for part in group.split("/"):
            parent, directory = directory, directory / part
            _enable(parent)
            directory.mkdir(exist_ok=True)
            for name in INHERITED:
                own, above = directory / name, parent / name
                if own.exists() and above.exists() and not own.read_text().strip():
                    own.write_text(above.read_text())


def enter(group: str) -> list[str]:
    """The words in front of a command that runs it in a group: away from whatever group, with whatever limits, this process is in."""
    files = [str(tree / group / "cgroup.procs") for tree in hierarchies(Path("/proc/mounts").read_text())]
    script = "for file in {}; do echo $$ > $file; done; exec \"$@\"".format(" ".join(map(shlex.quote, files)))
    return ["/bin/sh", "-c", script, "sh"]


def _enable(directory: Path) -> None:
    """Lets a v2 group's children have controllers; those that the machine withholds are no matter."""
    control = directory / "cgroup.subtree_control"
    if control.exists():
        for controller in V2_CONTROLLERS:
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")


def remove(group: str) -> None:
    """Ends whatever is left in a group (only what was started there is), then removes it and all below it, everywhere."""
    deadline = time.monotonic() + REMOVE_WITHIN_S
    for tree in hierarchies(Path("/proc/mounts").read_text()):
        root = tree / group
        while root.exists():
            for directory in [*sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True), root]:
                _empty(directory)
            if root.exists():
                if time.monotonic() > deadline:
                    raise ClusterError(f"control group {root} does not go away; see what is left in it: find {root} -name cgroup.procs")
                time.sleep(0.02)


def _empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
        return
    with contextlib.suppress(OSError):
        for pid in (directory / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
