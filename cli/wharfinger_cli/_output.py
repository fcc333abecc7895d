"""View data out: as JSON with camelCase keys, or as lines and tables as kubectl has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


PIPE_WIDTH = 400


class Output(StrEnum):
    """`-o`."""

    TEXT = "text"
    JSON = "json"


def as_json(view: Any) -> str:
    """Frozen dataclasses as JSON: a field's name in camelCase is its key; nothing is left out, what is unknown is null."""
    return json.dumps(plain(view), indent=2)


def plain(value: Any) -> Any:
    """Dataclasses to dicts, sequences to lists; everything else as it is."""
    if is_dataclass(value):
        return {_camel(field.name): plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Columns without lines, headings in capitals; nothing is cut off."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for heading in headings:
        made.add_column(heading.upper(), overflow="fold", no_wrap=False)
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def console(*, stderr: bool = False) -> Console:
    """A console that interprets no markup, for names are data, and folds nothing when its lines go to another program."""
    from rich.console import Console

    made = Console(markup=False, highlight=False, emoji=False, stderr=stderr)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
