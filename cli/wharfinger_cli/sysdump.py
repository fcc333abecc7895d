"""`wharfinger sysdump`: what whoever helps needs to see, in one file; never a Secret's content.

A piece that cannot be had is named in the archive with the reason, and the rest goes on: a cluster that is asked for a dump is often not well.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wharfinger_api import GROUP, PLURALS, VERSION

from ._errors import CliError, ExitCode
from ._output import as_json, console
from ._seen import COMPONENT, RELEASE

if TYPE_CHECKING:
    from rich.console import Console

    from ._cluster import Cluster

LISTS = {
    "nodes": "/api/v1/nodes", "pods": "/api/v1/pods", "services": "/api/v1/services", "namespaces": "/api/v1/namespaces",
    "events": "/api/v1/events", "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "deployments": "/apis/apps/v1/deployments", "daemonsets": "/apis/apps/v1/daemonsets",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies", "leases": "/apis/coordination.k8s.io/v1/leases",
    "webhooks": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    **{plural: f"/apis/{GROUP}/{VERSION}/{plural}" for plural in PLURALS.values()},
}
DUMP = ["python3", "-m", "wharfinger_dataplane.dump"]
LOG_BYTES = 5_000_000
SECRET = re.compile(r"headers|token|password|secret|credential|api_?key", re.IGNORECASE)
"""Environment variables of such names are left out by their value (OTEL_EXPORTER_OTLP_HEADERS bears credentials)."""


@dataclass(frozen=True)
class DumpView:
    """What `wharfinger sysdump -o json` prints. `missing`: piece -> why it could not be had."""

    file: str
    pieces: int
    missing: dict[str, str]


def dump_to(cluster: Cluster, file: Path | None, views: Mapping[str, Callable[[], Any]], now: datetime) -> DumpView:
    """Writes the archive (tar, gzip), readable by its owner only. `views`: name -> what makes it, such as status. CliError when it cannot be
    written, or when nothing could be had."""
    name = f"wharfinger-sysdump-{now.astimezone(UTC):%Y%m%d-%H%M%S}"
    path = file or Path(f"{name}.tar.gz")
    pieces, missing = 0, {}
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for piece, make in _pieces(cluster, views):
                try:
                    content = make()
                except CliError as error:
                    missing[piece] = str(error)
                    continue
                _add(archive, f"{name}/{piece}", content, now)
                pieces += 1
            _add(archive, f"{name}/missing.json", json.dumps(missing, indent=1), now)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}", "Name another with --file.", ExitCode.USAGE) from error
    if not pieces:
        path.unlink()
        raise CliError("nothing of the cluster could be read", next(iter(missing.values()), ""))
    return DumpView(str(path), pieces, missing)


def print_dump(view: DumpView, out: Console | None = None) -> None:
    """The file, and what is missing in it."""
    out = out or console()
    out.print(f"{view.file}: {view.pieces} pieces. It holds names, addresses and logs of the cluster, and no Secrets.", soft_wrap=True)
    for piece, why in view.missing.items():
        out.print(f"! {piece} is missing: {why}", soft_wrap=True)


def without_secrets(value: Any) -> Any:
    """`value` (JSON) with environment variables of secret names, annotations that repeat a whole manifest, and managed fields left out."""
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("name"), str) and "value" in value and SECRET.search(value["name"]):
        return {**value, "value": "(left out)"}
    return {key: without_secrets(item) for key, item in value.items()
            if key not in ("managedFields", "kubectl.kubernetes.io/last-applied-configuration")}


def _pieces(cluster: Cluster, views: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name in the archive, what makes its text)."""
    yield "version.json", lambda: json.dumps(cluster.raw("/version"), indent=1)
    for name, view in views.items():
        yield f"{name}.json", lambda view=view: as_json(view())
    for name, path in LISTS.items():
        yield f"resources/{name}.json", lambda path=path: json.dumps(without_secrets(cluster.items(path)), indent=1)
    try:
        pods = cluster.items("/api/v1/pods", labelSelector=RELEASE)
    except CliError:  # said of resources/pods.json
        return
    for pod in pods:
        yield from _of_pod(cluster, pod)


def _of_pod(cluster: Cluster, pod: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    """A component's logs, the former container's too if there was one; of an agent also what is in its node's kernel."""
    metadata, node = pod["metadata"], pod["spec"].get("nodeName", "none")
    log = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    for status in pod["status"].get("containerStatuses", ()):
        query = {"container": status["name"], "limitBytes": str(LOG_BYTES), "timestamps": "true"}
        yield f"logs/{metadata['name']}.{status['name']}.log", lambda query=query: cluster.text(log, **query)
        if status.get("restartCount"):
            yield f"logs/{metadata['name']}.{status['name']}.former.log", lambda query=query: cluster.text(log, **query, previous="true")
    if (metadata.get("labels") or {}).get(COMPONENT) == "agent":
        yield f"kernel/{node}.json", lambda: cluster.execute(metadata["namespace"], metadata["name"], DUMP)


def _add(archive: tarfile.TarFile, name: str, text: str, now: datetime) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(now.timestamp()), 0o600
    archive.addfile(entry, io.BytesIO(content))
