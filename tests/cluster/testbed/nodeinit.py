"""The first process of a node: makes the node's view of the machine, then starts its daemons and keeps them running.

Runs as process 1 of new PID and mount namespaces, in the node's network namespace, with nothing but the standard library. Whatever it
mounts, and whatever its daemons and their containers mount, is gone when it is: killing it is how a node is switched off.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE, MS_SHARED = 1, 2, 4, 8, 4096, 16384, 1 << 19, 1 << 20
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RESTART_AFTER_S = 1.0
TICK_S = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2)."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source} ({kind or 'bind'}) on {target}: {os.strerror(number)}")


def say(text: str) -> None:
    """A line in the node's log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def arrange(spec: dict) -> None:
    """Gives the node its own /proc, /run, /sys and writable directories; keeps in sight what the specification names."""
    mount("none", "/", flags=MS_REC | MS_SLAVE)
    kept = {path: os.open(path, os.O_PATH) for path in [*spec["keep"], *spec["private"].values(), "/sys/fs/cgroup"]}
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV)
    for target, source in spec["private"].items():
        mount(f"/proc/self/fd/{kept[source]}", target, flags=MS_BIND)
    for path in spec["keep"]:
        Path(path).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{kept[path]}", path, flags=MS_BIND)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount(f"/proc/self/fd/{kept['/sys/fs/cgroup']}", "/sys/fs/cgroup", flags=MS_BIND | MS_REC)
    mount("bpf", "/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for descriptor in kept.values():
        os.close(descriptor)
    for path in ("/run/netns", "/run/lock", *spec["directories"]):
        Path(path).mkdir(parents=True, exist_ok=True)
    for number, (path, value) in enumerate(spec["pretend"].items()):
        if Path(path).exists():
            stand_in = Path(f"/run/pretend-{number}")
            stand_in.write_text(value + "\n")
            mount(str(stand_in), path, flags=MS_BIND)
    mount("none", "/", flags=MS_REC | MS_SHARED)
    for key, value in spec["sysctls"].items():
        path = Path("/proc/sys", *key.split("."))
        if path.exists():
            path.write_text(value)


class Daemons:
    """The node's daemons: each started when what it waits for is there, and again whenever it ends."""

    def __init__(self, specs: list[dict]) -> None:
        self._waiting = {spec["name"]: (spec, 0.0) for spec in specs}
        self._running: dict[int, dict] = {}

    def start_due(self) -> None:
        """Starts those whose time has come."""
        for name, (spec, due) in list(self._waiting.items()):
            if time.monotonic() >= due and all(Path(path).exists() for path in spec["after"]):
                del self._waiting[name]
                with Path(spec["log"]).open("ab") as log:
                    process = subprocess.Popen(spec["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                               start_new_session=True)
                process.returncode = 0  # reaped below, with everything else that is left to process 1
                self._running[process.pid] = spec
                say(f"started {name} as {process.pid}")

    def reap(self) -> None:
        """Collects what has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            spec = self._running.pop(pid, None)
            if spec:
                say(f"{spec['name']} ended with {os.waitstatus_to_exitcode(status)}, starting it again")
                self._waiting[spec["name"]] = (spec, time.monotonic() + RESTART_AFTER_S)


def end(*_: object) -> None:
    """Ends everything in this PID namespace, and so the node."""
    os.kill(-1, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Runs the node that the first argument's file specifies."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGTERM, end)
    os.environ["PATH"] = SEARCHED
    arrange(spec)
    say(f"{spec['name']} is arranged")
    daemons = Daemons(spec["daemons"])
    while True:
        daemons.start_due()
        daemons.reap()
        time.sleep(TICK_S)


if __name__ == "__main__":
    main()
