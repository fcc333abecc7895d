"""What can be wrong with a raw object."""

from __future__ import annotations


class ApiError(Exception):
    """Base of this package's errors."""


class UnknownKind(ApiError):
    """The object's apiVersion and kind are none of Wharfinger's."""


class MalformedObject(ApiError):
    """The object does not have the shape of crds/*.yaml: says which object, which field, and what is wrong with it."""
