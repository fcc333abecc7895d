"""Debian packages by name: which are missing, and installing those."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import SetupError
from .progress import Reporter, run_logged


def read(path: Path) -> list[str]:
    """The names in a list: one a line, `#` starts a comment."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def missing(names: Iterable[str]) -> list[str]:
    """Those of the names that dpkg does not know as installed."""
    result = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n"], capture_output=True, text=True, check=True)
    installed = {line.split()[0] for line in result.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def install(names: Iterable[str], log: Path, reporter: Reporter) -> list[str]:
    """Installs what is missing, with apt-get's output in `log`; returns what that was."""
    absent = missing(names)
    if not absent:
        return []
    if os.geteuid() != 0:
        raise SetupError(f"Debian packages are missing. Run as root, or: sudo apt-get install {' '.join(absent)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    shown = ", ".join(absent[:6]) + (", ..." if len(absent) > 6 else "")
    with reporter.task("apt", f"Installing {len(absent)} Debian packages ({shown})", 60):
        run_logged(["apt-get", "update", "-q"], log, env=environment, error=SetupError, what="apt-get update")
        run_logged(["apt-get", "install", "-q", "-y", "--no-install-recommends", *absent], log, env=environment, error=SetupError,
                   what=f"apt-get install {' '.join(absent)}")
    return absent
