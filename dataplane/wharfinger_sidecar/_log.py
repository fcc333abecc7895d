"""One JSON line on standard error per event, as every Wharfinger component writes them.

Without the json package, whose regular expressions would be a seventh of the sidecar's own memory in every pod.
"""

from __future__ import annotations

import os
import time

STANDARD_ERROR = 2

PLACE = {"pod": "POD_NAME", "namespace": "POD_NAMESPACE", "node": "NODE_NAME"}
"""Field of every line -> environment variable (downward API) that gives it."""


def quote(text: str) -> str:
    """`text` as a JSON string (RFC 8259, section 7): what must be escaped is, and what is no character becomes U+FFFD."""
    characters = []
    for character in text:
        if character in '"\\' or character < " ":
            characters.append(f"\\u{ord(character):04x}")
        elif "\ud800" <= character <= "\udfff":
            characters.append("\ufffd")
        else:
            characters.append(character)
    return '"' + "".join(characters) + '"'


def line(fields: dict[str, str | int | float]) -> str:
    """`fields` as one JSON object; numbers must be finite."""
    return "{" + ", ".join(f"{quote(key)}: {quote(value) if isinstance(value, str) else value}" for key, value in fields.items()) + "}"


def log(event: str, level: str = "info", **fields: str | int | float) -> None:
    """Write `event` with its time (UTC), its level, the pod's place and `fields`.

    One write(2) and no buffer: a signal's handler logs too, and may interrupt a line that is being written.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    place = {field: os.environ[variable] for field, variable in PLACE.items() if os.environ.get(variable)}
    text = line({"timestamp": stamp, "level": level, "event": event, **place, **fields}) + "\n"
    os.write(STANDARD_ERROR, text.encode())
