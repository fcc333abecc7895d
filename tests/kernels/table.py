"""The table of docs/kernels.md: how many instructions the verifier looks at, by program and kernel. Written
by `make kernels-table`."""

from __future__ import annotations

import re
from collections.abc import Mapping

BEGIN, END = "<!-- written by `make kernels-table` -->", "<!-- end of what is written -->"
MORE = 1.1
"""Compilers of the same version and kernels of the same series differ a little; what is more than a tenth has
a cause in the programs."""

Counts = Mapping[str, Mapping[str, int]]
"""Kernel -> program -> instructions."""


def series(release: str) -> str:
    """6.1 of 6.1.0-50-cloud-amd64."""
    return ".".join(release.split(".")[:2])


def render(counts: Counts) -> str:
    """The table's lines."""
    programs = sorted({program for each in counts.values() for program in each})
    rows = [["program", *counts], ["---", *("---:" for _ in counts)]]
    rows += [
        [f"`{program}`", *(f"{each[program]:,}" if program in each else "–" for each in counts.values())]
        for program in programs
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def replace(page: str, counts: Counts) -> str:
    """The page with these counts in its table's place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{render(counts)}\n{END}{after}"


def read(page: str) -> Counts:
    """The counts that a page has."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    counts: dict[str, dict[str, int]] = {kernel: {} for kernel in rows[0][1:]} if rows else {}
    for program, *numbers in rows[2:]:
        for kernel, number in zip(counts, numbers, strict=True):
            if re.fullmatch(r"[\d,]+", number):
                counts[kernel][program] = int(number.replace(",", ""))
    return counts


def differences(written: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """What a kernel's programs are and the page does not say: a sentence each."""
    out = [f"{name} is not in the table" for name in sorted(set(found) - set(written))]
    out += [f"{name} is in the table and not in the object" for name in sorted(set(written) - set(found))]
    return out + [
        f"{name}: {found[name]:,} instructions, {written[name]:,} in the table"
        for name in sorted(set(written) & set(found))
        if found[name] > written[name] * MORE
    ]
