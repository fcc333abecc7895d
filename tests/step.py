"""Runs a command that takes a while before there is anything but the standard library: a bar on a terminal, a line every 15 s elsewhere.

    python3 tests/step.py TITLE SECONDS COMMAND [WORD ...]

SECONDS is the estimate. What the command prints is shown only if it fails; its exit code is passed on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

WIDTH = 30
LINE_EVERY_S = 15.0


def bar(title: str, elapsed: float, estimate: float) -> str:
    """One line: how far, and about how long it will still take."""
    done = min(int(WIDTH * elapsed / estimate), WIDTH - 1)
    left = f"about {estimate - elapsed:.0f} s left" if elapsed < estimate else f"{elapsed - estimate:.0f} s longer than expected"
    return f"{title}  {'━' * done}{'╺' * (WIDTH - done)}  {elapsed:.0f} s, {left}"


def main(title: str, seconds: str, *command: str) -> int:
    """The command's exit code."""
    estimate, began, told = float(seconds), time.monotonic(), 0.0
    terminal = sys.stderr.isatty()
    with (tempfile.TemporaryFile("w+") as output,
          subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process):
        if not terminal:
            print(f"{title}: takes about {estimate:.0f} s", file=sys.stderr, flush=True)
        while process.poll() is None:
            time.sleep(0.2)
            elapsed = time.monotonic() - began
            if terminal:
                print(f"\r{bar(title, elapsed, estimate)}\033[K", end="", file=sys.stderr, flush=True)
            elif elapsed - told > LINE_EVERY_S:
                told = elapsed
                print(bar(title, elapsed, estimate), file=sys.stderr, flush=True)
        done = f"{title}: {'failed' if process.returncode else 'done'} after {time.monotonic() - began:.0f} s"
        print(f"\r{done}\033[K" if terminal else done, file=sys.stderr, flush=True)
        if process.returncode:
            output.seek(0)
            sys.stderr.write(output.read()[-8000:])
        return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
