"""What all kinds share: the model's settings, metadata, conditions, port ranges."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

PortNumber = Annotated[int, Field(ge=1, le=65535)]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]
"""A moment with its offset; dumped as RFC 3339 in UTC."""


class Model(BaseModel):
    """Frozen; unknown fields are ignored, so that a newer object can be read by an older reader."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class PortRange(Model):
    """An inclusive range of port numbers (`from` and `to` in JSON)."""

    first: PortNumber = Field(alias="from")
    last: PortNumber = Field(alias="to")

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return iter(range(self.first, self.last + 1))

    def __len__(self) -> int:
        return self.last - self.first + 1

    def overlaps(self, other: PortRange) -> bool:
        """Whether any number is in both."""
        return self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Metadata(Model):
    """metadata, as far as Wharfinger reads it. `namespace` is empty for cluster-scoped objects."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Condition(Model):
    """status.conditions[], as in the Gateway API. `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: Timestamp
    observed_generation: int | None = None


class Resource(Model):
    """Base of the four kinds."""

    metadata: Metadata

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.metadata.namespace, self.metadata.name

    def __str__(self) -> str:
        return f"{type(self).__name__} {'/'.join(part for part in self.key if part)}"


def dump(model: BaseModel) -> dict[str, Any]:
    """The JSON shape of `model`: camelCase, without what is None, timestamps as strings."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
