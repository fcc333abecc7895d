"""Showing that something long is under way, and about how long it will take.

On a terminal a bar, elsewhere (CI) a plain line every fifteen seconds. The estimate is what it took the last time.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .cache import Durations
from .errors import BuildError, TestbedError

LINE_EVERY_S = 15.0
BAR_AFTER_S = 0.5
TAIL_LINES = 40
TELLING = 0.1
"""What took a smaller part of its estimate was served by some other cache (Go's own), and says nothing of the next time."""


def spell(seconds: float) -> str:
    """5 min 16 s."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"


def remaining(elapsed_s: float, estimate_s: float) -> str:
    """How much longer, in words that stay true when the estimate was too short."""
    if elapsed_s < estimate_s:
        return f"about {spell(estimate_s - elapsed_s)} left"
    return f"{spell(elapsed_s - estimate_s)} longer than last time"


class Reporter:
    """Tells the user what is being done. One is made in `main` and handed down."""

    def __init__(self, durations: Durations, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._durations = durations

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def task(self, name: str, title: str, default_s: float) -> Iterator[None]:
        """Shows progress while the block runs, records how long it took, and says so at the end."""
        estimate = self._durations.last(name, default_s)
        started = time.monotonic()
        ended = threading.Event()
        show = self._bar if self.console.is_terminal else self._lines
        thread = threading.Thread(target=show, args=(title, estimate, started, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        took = time.monotonic() - started
        if took > estimate * TELLING:
            self._durations.record(name, took)
        self.say(f"{title}: done in {spell(took)}")

    def _bar(self, title: str, estimate: float, started: float, ended: threading.Event) -> None:
        if ended.wait(BAR_AFTER_S):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = progress.add_task(title, total=estimate, words="")
            while not ended.wait(0.2):
                elapsed = time.monotonic() - started
                words = f"{spell(elapsed)}, {remaining(elapsed, estimate)}"
                progress.update(bar, completed=min(elapsed, estimate * 0.99), words=words)

    def _lines(self, title: str, estimate: float, started: float, ended: threading.Event) -> None:
        if estimate > 5:
            self.say(f"{title}: takes about {spell(estimate)}")
        while not ended.wait(LINE_EVERY_S):
            elapsed = time.monotonic() - started
            self.say(f"{title}: {spell(elapsed)}, {remaining(elapsed, estimate)}")


def run_logged(argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
               error: type[TestbedError] = BuildError, what: str = "") -> None:
    """Runs a command with its output in a file; a failure shows the end of that file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            code = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=output,
                                  stderr=subprocess.STDOUT, env=env, cwd=cwd, check=False).returncode
        except FileNotFoundError as missing:
            raise error(f"{what or argv[0]}: {argv[0]} is not installed. Run `python -m testbed setup`.") from missing
    if code:
        raise error(f"{what or argv[0]} failed with exit code {code}. The last lines of {log}:\n{tail(log)}")


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The end of a text file, indented."""
    try:
        text = log.read_text(errors="replace")
    except OSError as failure:
        return f"    ({failure})"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"
