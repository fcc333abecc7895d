"""The collector: one POST of OTLP http/protobuf, and what its answer means (OTLP specification, "OTLP/HTTP Response").

Why not the SDK's exporter: it takes the SDK's span objects alone, which cost more than the connections that they tell of; it writes a line
of log for each batch that fails; and why a batch failed cannot be had from it, so nobody could count. The variables are the same, OTEL_*.
"""

from __future__ import annotations

import gzip
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.util.re import parse_env_headers

TIMEOUT_S = 10.0
ANSWER_MAX = 65536
AGAIN = frozenset({429, 502, 503, 504})
COMPRESSIONS = {"none": None, "gzip": lambda body: gzip.compress(body, 1), "deflate": lambda body: zlib.compress(body, 1)}


@dataclass(frozen=True)
class CollectorSettings:
    """Whom to post to, and how. `timeout_s` bounds one batch, its repetitions among it; files are PEM, None: the system's authorities, no
    certificate of ours."""

    url: str
    headers: Mapping[str, str]
    timeout_s: float
    compression: str
    authority_file: str | None
    certificate_file: str | None
    key_file: str | None


def collector_settings_from(environment: Mapping[str, str]) -> CollectorSettings:
    """Of OTEL_EXPORTER_OTLP_TRACES_* or else OTEL_EXPORTER_OTLP_*; the end point is there. ValueError names a variable that is not understood.

    As in all of OpenTelemetry's Python, OTEL_EXPORTER_OTLP_TIMEOUT is in seconds.
    """
    def setting(name: str, default: str = "") -> str:
        return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or default

    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rstrip("/") + "/v1/traces"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT gives {url!r}: must be a URL of http or https, as in http://collector:4318")
    compression = setting("COMPRESSION", "none").strip().lower()
    if compression not in COMPRESSIONS:
        raise ValueError(f"OTEL_EXPORTER_OTLP_COMPRESSION is {compression!r}: must be one of {', '.join(COMPRESSIONS)}")
    return CollectorSettings(
        url=url, headers=parse_env_headers(setting("HEADERS"), liberal=True), timeout_s=_seconds(setting("TIMEOUT", str(TIMEOUT_S))),
        compression=compression, authority_file=setting("CERTIFICATE") or None, certificate_file=setting("CLIENT_CERTIFICATE") or None,
        key_file=setting("CLIENT_KEY") or None)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"OTEL_EXPORTER_OTLP_TIMEOUT is {text!r}: must be a number of seconds above 0")
    return seconds


@dataclass(frozen=True)
class Answer:
    """What became of a batch: taken but for `rejected` of its spans, or not taken for a `reason` (one of _export.REASONS), for good or until
    it is tried `again`, after `pause_s` seconds if the collector named a time."""

    reason: str = ""
    words: str = ""
    rejected: int = 0
    again: bool = False
    pause_s: float | None = None


class Collector:
    """A connection to the collector that is kept; one thread posts."""

    def __init__(self, settings: CollectorSettings) -> None:
        self.settings = settings
        self._compress = COMPRESSIONS[settings.compression]
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "wharfinger-agent",
                         **({"content-encoding": settings.compression} if self._compress else {}), **settings.headers}
        self._pool = _pool(settings)

    def post(self, body: bytes) -> Answer:
        """Posts an ExportTraceServiceRequest and waits for the answer, as long as the settings allow."""
        try:
            answer = self._pool.request("POST", self.settings.url, body=self._compress(body) if self._compress else body, headers=self._headers,
                                        timeout=urllib3.Timeout(total=self.settings.timeout_s), retries=False, redirect=False,
                                        preload_content=False)
            try:
                text = answer.read(ANSWER_MAX)
            finally:
                answer.release_conn() if answer.length_remaining == 0 else answer.close()
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            return Answer("timeout", str(error))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Answer("unreachable", str(error), again=True)
        if 200 <= answer.status < 300:
            return Answer(rejected=_rejected(text))
        return Answer("refused", f"it answered {answer.status} {answer.reason}", again=answer.status in AGAIN,
                      pause_s=_pause_s(answer.headers.get("retry-after", ""), time.time()))

    def close(self) -> None:
        self._pool.clear()


def _pool(settings: CollectorSettings) -> urllib3.PoolManager:
    files = {"ca_certs": settings.authority_file, "cert_file": settings.certificate_file, "key_file": settings.key_file}
    options = {"maxsize": 1, **{name: path for name, path in files.items() if path}}
    target = urlsplit(settings.url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        return urllib3.ProxyManager(proxy, **options)
    return urllib3.PoolManager(**options)


def _rejected(text: bytes) -> int:
    """Spans that a collector which took the batch did not want (partial success)."""
    try:
        return max(0, ExportTraceServiceResponse.FromString(text).partial_success.rejected_spans)
    except DecodeError:
        return 0


def _pause_s(text: str, now: float) -> float | None:
    """Seconds of a Retry-After (RFC 9110, 10.2.3): a number, or a date; None when there is none that is understood. `now`: since 1970."""
    try:
        return float(int(text)) if text.strip().isdecimal() else max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError):
        return None
