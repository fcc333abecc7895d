"""Problems: what is wrong, where, and the remedy. They come first in every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

INSTALL = ("kubectl create namespace wharfinger-system; kubectl label namespace wharfinger-system pod-security.kubernetes.io/enforce=privileged; "
           "helm install wharfinger charts/wharfinger --namespace wharfinger-system")
"""The remedy for everything that is missing."""


@dataclass(frozen=True)
class Problem:
    """`where` is an object (kind and name) or a node; `remedy` says what to do, mostly a command."""

    where: str
    what: str
    remedy: str


def print_problems(console: Console, problems: Sequence[Problem]) -> None:
    """One paragraph a problem, and a blank line after."""
    for problem in problems:
        console.print(f"✗ {problem.where}: {problem.what}", style="bold red", soft_wrap=True)
        console.print(f"  → {problem.remedy}", soft_wrap=True)
    if problems:
        console.print()


def print_notes(console: Console, notes: Sequence[Problem]) -> None:
    """As `print_problems`, of what needs no action to work."""
    for note in notes:
        console.print(f"! {note.where}: {note.what}", soft_wrap=True)
        console.print(f"  → {note.remedy}", soft_wrap=True)
    if notes:
        console.print()
