"""`python -m wharfinger_operator.uninstall leave`, and `... clean`: plain sentences on standard output, which Helm shows."""

from __future__ import annotations

import asyncio
import os
import sys

from ..client import Client, login
from ._clean import clean
from ._leave import leave
from ._settings import SettingsError, UninstallSettings, settings_from

STEPS = {"leave": leave, "clean": clean}
FAILED, WRONG_SETTINGS = 1, 2


async def run(step: str, settings: UninstallSettings) -> bool:
    """Whether the step did all that it should."""
    async with Client(login()) as client:
        return await STEPS[step](client, settings)


def main(arguments: list[str]) -> int:
    """The process's exit status."""
    if len(arguments) != 1 or arguments[0] not in STEPS:
        print(f"give one of: {', '.join(STEPS)}", file=sys.stderr)
        return WRONG_SETTINGS
    try:
        settings = settings_from(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    return 0 if asyncio.run(run(arguments[0], settings)) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
