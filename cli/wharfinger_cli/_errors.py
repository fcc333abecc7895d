"""What can go wrong, for people: what, where, and what to do. Exit codes are part of the interface."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """0: all is well. 1: the answer tells of problems (of `explain`: the connection is not redirected). 2: the command line is wrong.
    3: the cluster did not answer, or not as it should."""

    WELL = 0
    PROBLEMS = 1
    USAGE = 2
    CLUSTER = 3


EXIT_CODES = "Exit codes: 0 all is well, 1 problems were found, 2 wrong use, 3 the cluster could not be asked."
EXIT_CODES_DUMP = "Exit codes: 0 all of it could be had, 1 pieces are missing, 2 wrong use, 3 the cluster could not be asked."
EXIT_CODES_EXPLAIN = "Exit codes: 0 redirected, 1 not redirected, 2 wrong use, 3 the cluster could not be asked."


class CliError(Exception):
    """Ends the command. `what` says what was wrong and where, `remedy` what to do."""

    def __init__(self, what: str, remedy: str, code: ExitCode = ExitCode.CLUSTER) -> None:
        super().__init__(what)
        self.what, self.remedy, self.code = what, remedy, code
