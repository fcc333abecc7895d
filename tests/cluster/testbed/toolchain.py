"""A Go toolchain that is new enough: the one on PATH, or one fetched as a module by an older one.

Go 1.21 and later switch to the toolchain a module asks for by themselves (GOTOOLCHAIN=auto). Debian 12's Go 1.19 does not, but can
download the toolchain, which is a module like any other, and that one is then used.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from . import packages
from .errors import SetupError
from .progress import Reporter
from .settings import GO, Settings

ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
DEBIAN_GO = "golang-go"
SWITCHES_ITSELF = (1, 21, 0)
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

Version = tuple[int, int, int]


def parse(text: str) -> Version:
    """The version in `go version go1.26.8 linux/amd64` or in a go.mod's go line."""
    found = re.search(r"(?:go\s*)(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise SetupError(f"no Go version in {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def needed() -> Version:
    """The newest Go that any of the modules asks for."""
    lines = (re.search(r"^go \S+", path.read_text(), re.MULTILINE) for path in GO.glob("*/go.mod"))
    return max(parse(line[0]) for line in lines if line)


def module_of(version: Version, machine: str) -> str:
    """The toolchain's name as a module."""
    return f"golang.org/toolchain@v0.0.1-go{'.'.join(map(str, version))}.linux-{MACHINES.get(machine, machine)}"


def find_go(settings: Settings, reporter: Reporter) -> Path:
    """The go command to build with; installs and fetches what it takes."""
    wanted = needed()
    fetched = settings.cache / "go" / f"go{'.'.join(map(str, wanted))}" / "bin" / "go"
    if fetched.exists():
        return fetched
    found = shutil.which("go")
    if found and _version(Path(found)) >= min(wanted, SWITCHES_ITSELF):
        return Path(found)
    if not found:
        packages.install([DEBIAN_GO], settings.cache / "logs" / "apt.log", reporter)
        found = shutil.which("go")
        if not found:
            raise SetupError(f"{DEBIAN_GO} is installed, but there is no go on PATH ({os.environ.get('PATH')})")
    if _version(Path(found)) >= SWITCHES_ITSELF:
        return Path(found)
    _fetch(Path(found), wanted, fetched.parent.parent, reporter)
    return fetched


def _version(go: Path) -> Version:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    return parse(subprocess.run([go, "version"], capture_output=True, text=True, check=True, env=environment, cwd="/").stdout)


def _fetch(go: Path, wanted: Version, link: Path, reporter: Reporter) -> None:
    """Downloads the toolchain with an older go, and undoes what its form as a module did to it: no executables, no go.mod."""
    module = module_of(wanted, platform.machine())
    with reporter.task("go-toolchain", f"Fetching {module}", 30):
        result = subprocess.run([go, "mod", "download", "-json", module], capture_output=True, text=True, check=False, cwd="/")
    if result.returncode:
        raise SetupError(f"`go mod download {module}` failed; is the Go module proxy ({_proxy(go)}) within reach?\n"
                         f"{result.stderr}{result.stdout}")
    link.parent.mkdir(parents=True, exist_ok=True)
    scratch = link.with_name(link.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(json.loads(result.stdout)["Dir"], scratch)
    for path in [scratch, *scratch.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    for path in [*(scratch / "bin").iterdir(), *(file for file in (scratch / "pkg" / "tool").rglob("*") if file.is_file())]:
        path.chmod(0o755)
    for path in scratch.rglob("_go.mod"):
        path.rename(path.with_name("go.mod"))
    scratch.rename(link)


def _proxy(go: Path) -> str:
    return subprocess.run([go, "env", "GOPROXY"], capture_output=True, text=True, check=False, cwd="/").stdout.strip()
