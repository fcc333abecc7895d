"""Logs: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys

import structlog


def configure(level: str) -> None:
    """Logs of `level` (debug, info, warning, error) and above; the libraries' warnings come with them."""
    numbers = logging.getLevelNamesMapping()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info,
                    structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(numbers[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _Json(logging.Formatter):
    """The libraries' own records, in the same shape."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"level": record.levelname.lower(), "logger": record.name, "event": super().format(record)})
