"""A node's containerd, spoken to with `ctr` from inside the node."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import ClusterError
from .images import archive_digest

CTR = ("ctr", "--namespace=k8s.io")


def answers(enter: Sequence[str]) -> bool:
    """Whether containerd is there to be asked."""
    return subprocess.run([*enter, *CTR, "version"], capture_output=True, check=False).returncode == 0


def digests(listing: str) -> dict[str, str]:
    """Image name to digest, from what `ctr images list` prints."""
    rows = (line.split() for line in listing.splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}


def import_image(enter: Sequence[str], archive: Path) -> bool:
    """Imports an archive's image unless the node has it; whether it had to."""
    name, digest = archive_digest(archive)
    if digests(_run([*enter, *CTR, "images", "list"])).get(name) == digest:
        return False
    _run([*enter, *CTR, "images", "import", "--no-unpack=false", str(archive)])
    found = digests(_run([*enter, *CTR, "images", "list"]))
    if found.get(name) != digest:
        raise ClusterError(f"{archive} was imported, but containerd has {name} as {found.get(name)} and not as {digest}")
    return True


def _run(argv: Sequence[str]) -> str:
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(f"`{' '.join(argv)}` failed:\n{result.stderr}{result.stdout}")
    return result.stdout
