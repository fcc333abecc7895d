"""What a Dockerfile takes from its context: an image need only be built again when one of those files changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import BuildError


def instructions(text: str) -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def sources(text: str, arguments: Mapping[str, str]) -> list[str]:
    """The paths that COPY and ADD take from the context, with build arguments filled in."""
    known = dict(arguments)
    found: list[str] = []
    for line in instructions(text):
        word, _, rest = line.partition(" ")
        if word.upper() == "ARG":
            name, _, default = rest.strip().partition("=")
            known.setdefault(name, default.strip("\"'"))
        if word.upper() in {"COPY", "ADD"}:
            found += _copied(rest, known)
    return found


def _copied(rest: str, known: Mapping[str, str]) -> list[str]:
    flags = re.match(r"(?:--\S+\s+)*", rest.strip())
    taken = flags[0] if flags else ""
    if "--from=" in taken:
        return []
    words = rest.strip()[len(taken):].strip()
    paths = json.loads(words) if words.startswith("[") else words.split()
    return [re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), path) for path in paths[:-1]]


def files(dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> list[Path]:
    """The files and folders of the context that the image is made of."""
    found: set[Path] = set()
    for source in sources(dockerfile.read_text(), arguments):
        pattern = source.strip("/") or "."
        matches = [context] if pattern == "." else sorted(context.glob(pattern))
        if not matches:
            raise BuildError(f"{dockerfile} copies {source}, but {context} has no such file; build it first or give another context")
        found.update(matches)
    return sorted(found)
