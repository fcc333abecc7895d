"""Traces of connections and of table writes, off the packet path: records in, spans out over OTLP http/protobuf.

`start` and `Telemetry.follow` are the agent's two calls; `TableSpans.table_write` takes what the agent did.
What does not belong here: metrics' exposition, and any memory of a connection (its closing record says it all).
"""

from ._connections import ConnectionSpans
from ._export import Counts, SpanQueue
from ._names import Names, PodName
from ._sampling import Sampling
from ._settings import TelemetryError, TelemetrySettings, settings_from
from ._start import Telemetry, start
from ._writes import TableSpans

__all__ = [
    "ConnectionSpans",
    "Counts",
    "Names",
    "PodName",
    "Sampling",
    "SpanQueue",
    "TableSpans",
    "Telemetry",
    "TelemetryError",
    "TelemetrySettings",
    "settings_from",
    "start",
]
