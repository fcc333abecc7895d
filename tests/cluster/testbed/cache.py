"""What survives between runs, outside the checkout: builds keyed by what went into them, and how long things took."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

Part = str | Path


def key_of(*parts: Part) -> str:
    """A short hash of strings, files and folders: the same if and only if the same things went in."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            _frame(digest, b"text", part.encode())
            continue
        for name, file in _files(part):
            mode = b"link" if file.is_symlink() else b"exec" if os.access(file, os.X_OK) else b"file"
            _frame(digest, mode, name.encode())
            _frame(digest, b"data", str(file.readlink()).encode() if file.is_symlink() else file.read_bytes())
    return digest.hexdigest()[:16]


def _frame(digest: hashlib._Hash, kind: bytes, data: bytes) -> None:
    digest.update(kind + len(data).to_bytes(8, "big") + data)


def _files(path: Path) -> Iterable[tuple[str, Path]]:
    if not path.is_dir() or path.is_symlink():
        return [(path.name, path)]
    found = (file for file in path.rglob("*") if file.is_file() or file.is_symlink())
    return sorted((str(file.relative_to(path.parent)), file) for file in found
                  if "__pycache__" not in file.parts and file.suffix != ".pyc")


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Yields a scratch directory to fill, which then becomes `target` in one rename; None if `target` is there already.

    Two processes that want the same target build it once: the second waits and finds it.
    """
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(target.name + ".lock")):
        if target.exists():
            yield None
            return
        scratch = target.with_name(target.name + ".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file for as long as the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep_newest(directory: Path, pattern: str, count: int) -> None:
    """Deletes all but the newest entries that match."""
    found = sorted(directory.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[count:]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Durations:
    """How long each thing took the last time, for the estimate of the next."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, name: str, default_s: float) -> float:
        """Seconds it took the last time, or the default."""
        return float(self._read().get(name, default_s))

    def record(self, name: str, seconds: float) -> None:
        """Remembers a duration."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.with_suffix(".lock")):
            scratch = self._path.with_suffix(".part")
            scratch.write_text(json.dumps({**self._read(), name: round(seconds, 1)}, indent=1, sort_keys=True))
            scratch.rename(self._path)

    def _read(self) -> dict[str, float]:
        try:
            return json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
