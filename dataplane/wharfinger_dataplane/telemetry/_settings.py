"""Telemetry's settings: read once, from the environment in which the chart and OpenTelemetry's users write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._collector import CollectorSettings, collector_settings_from
from ._identity import SECRET_BYTES, key_of
from ._sampling import Sampling, sampling_from

QUEUE_SPANS = 8192
"""About 8 MB: OpenTelemetry's 2048 would be what two thirds of a thousand connections make, less than comes between two looks at the ring."""
BATCH_SPANS = 1024
DELAY_MS = 5000


class TelemetryError(ValueError):
    """A setting is missing or not understood; the message names the variable and what it must be."""


@dataclass(frozen=True)
class TelemetrySettings:
    """What to trace and whom to hand it to. `collector` is None when nobody is to have spans; `key` has 16 bytes, all zero when no connection is
    traced; sizes are numbers of spans (OTEL_BSP_*)."""

    collector: CollectorSettings | None
    sampling: Sampling
    key: bytes = field(repr=False)
    queue_spans: int
    batch_spans: int
    delay_ms: int


def settings_from(environment: Mapping[str, str]) -> TelemetrySettings:
    """Settings from `environment` and the key file it names. Without an end point no key is asked for.

    TelemetryError when a variable is not understood or the key is missing: without the cluster's key the sides would not agree.
    """
    exports = _exports(environment)
    try:
        collector = collector_settings_from(environment) if exports else None
        sampling = sampling_from(environment) if exports else Sampling.of_ratio(0.0)
    except ValueError as error:
        raise TelemetryError(str(error)) from error
    queue = _number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS)
    return TelemetrySettings(
        collector=collector,
        sampling=sampling,
        key=key_of(_secret(environment)) if sampling.wanted else bytes(16),
        queue_spans=queue,
        batch_spans=min(queue, _number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS)),
        delay_ms=_number(environment, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS),
    )


def _exports(environment: Mapping[str, str]) -> bool:
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = {name.strip() for name in environment.get("OTEL_TRACES_EXPORTER", "otlp").split(",")}
    if not exporters & {"otlp", "otlp_proto_http"}:
        return False
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if environment.get(name, "http/protobuf") != "http/protobuf":
            raise TelemetryError(f"{name} is {environment[name]!r}: must be http/protobuf (a collector's port for it is mostly 4318)")
    return True


def _secret(environment: Mapping[str, str]) -> bytes:
    text, path = environment.get("WHARFINGER_TRACE_KEY", "").strip(), environment.get("WHARFINGER_TRACE_KEY_FILE", "")
    if text:
        source = "WHARFINGER_TRACE_KEY"
        try:
            secret = bytes.fromhex(text)
        except ValueError as error:
            raise TelemetryError(f"{source} is not hexadecimal") from error
    elif path:
        source = f"the file of WHARFINGER_TRACE_KEY_FILE ({path})"
        try:
            secret = Path(path).read_bytes()
        except OSError as error:
            raise TelemetryError(f"{source} cannot be read ({error.strerror}): mount the Secret with the trace key there") from error
    else:
        raise TelemetryError("neither WHARFINGER_TRACE_KEY (hexadecimal) nor WHARFINGER_TRACE_KEY_FILE is set: all agents need "
                             "the cluster's one key, or a connection's sides name different traces; the chart mounts it from its Secret")
    if len(secret) not in SECRET_BYTES:
        raise TelemetryError(f"{source} has {len(secret)} bytes: a trace key has {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} random bytes")
    return secret


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip() or str(default)
    if not text.isdecimal() or not int(text):
        raise TelemetryError(f"{name} is {text!r}: must be a whole number above 0")
    return int(text)
