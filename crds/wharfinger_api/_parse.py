"""Raw object to typed object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ._base import Resource
from ._errors import MalformedObject, UnknownKind
from ._names import API_VERSION
from ._pools import RedirectPortPool, ServicePortPool
from ._reports import NodeReport
from ._slices import ServicePortSlice

_KINDS: dict[str, type[Resource]] = {
    kind.__name__: kind for kind in (ServicePortPool, RedirectPortPool, ServicePortSlice, NodeReport)
}


def parse(raw: Mapping[str, Any]) -> ServicePortPool | RedirectPortPool | ServicePortSlice | NodeReport:
    """The typed form of an object as the API server gives it.

    UnknownKind when apiVersion and kind are none of ours; MalformedObject, naming object and field, when the shape is wrong.
    """
    kind = _KINDS.get(raw.get("kind", ""))
    if kind is None or raw.get("apiVersion") != API_VERSION:
        raise UnknownKind(f"{raw.get('apiVersion')}, kind {raw.get('kind')}: not one of {', '.join(_KINDS)} of {API_VERSION}")
    try:
        return kind.model_validate(raw)  # type: ignore[return-value]
    except ValidationError as error:
        metadata = raw.get("metadata") or {}
        name = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False))
        raise MalformedObject(f"{raw['kind']} {name or '(unnamed)'}: {faults}") from error
