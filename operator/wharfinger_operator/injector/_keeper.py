"""Keeps the stored keyring valid and the webhook configuration's trust bundle equal to it.

Rules
- Every replica does the same; the Secret's creation and its resourceVersion decide who was first, the others read his.
- The stored authorities are published before anything is renewed: an authority cannot take over unseen.
- A Secret that is gone or cannot be used is written anew from what this replica holds, so that nobody notices. Only a replica that
  holds nothing makes a new authority. (New ones are had by deleting the Secret while no replica runs.)
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import structlog

from wharfinger_operator.injector._cluster import StoredSecret
from wharfinger_operator.injector._keyring import Keyring, KeyringError, renew
from wharfinger_operator.injector._secret import SECRET_TYPE, from_data, to_data
from wharfinger_operator.injector._settings import InjectorSettings

ATTEMPTS = 5

log = structlog.get_logger()


class ContendedError(Exception):
    """The Secret changed under every one of ATTEMPTS writes: somebody else writes it all the time."""


class Store(Protocol):
    """What the keeper needs of the API server; `Cluster` has it, and documents it."""

    async def read_secret(self, name: str) -> StoredSecret | None: ...
    async def create_secret(self, name: str, kind: str, data: dict[str, str]) -> bool: ...
    async def replace_secret(self, name: str, kind: str, data: dict[str, str], resource_version: str) -> bool: ...
    async def read_trust(self, configuration: str) -> dict[str, bytes]: ...
    async def write_trust(self, configuration: str, webhooks: tuple[str, ...], bundle: bytes) -> None: ...


async def synchronise(store: Store, settings: InjectorSettings, now: datetime, held: Keyring | None = None) -> Keyring:
    """The keyring to serve with from `now` (aware) on, stored and published; whatever `store` raises passes through.

    `held` is the keyring of the last time, None the first time.
    """
    for _ in range(ATTEMPTS):
        stored = await store.read_secret(settings.certificate_secret)
        readable = _readable(stored, settings)
        keyring = readable or held
        if keyring is not None:
            await publish(store, settings, keyring)
        renewal = renew(keyring, settings.server_names, now)
        if readable is not None and not renewal.reasons:
            return renewal.keyring
        if await _write(store, settings, renewal.keyring, stored):
            reasons = renewal.reasons if readable or not held else ("they were lost", *renewal.reasons)
            log.info("certificates stored", reasons=reasons, authorities=len(renewal.keyring.authorities),
                     expires=renewal.keyring.serving.expires.isoformat())
            await publish(store, settings, renewal.keyring)
            return renewal.keyring
    raise ContendedError(f"Secret {settings.certificate_secret} changed under {ATTEMPTS} writes in a row")


async def publish(store: Store, settings: InjectorSettings, keyring: Keyring) -> None:
    """Make the trust bundle of every webhook in our configuration that of `keyring`."""
    trust = await store.read_trust(settings.webhook_configuration)
    stale = tuple(name for name, bundle in trust.items() if bundle != keyring.trust_bundle)
    if stale:
        await store.write_trust(settings.webhook_configuration, stale, keyring.trust_bundle)
        log.info("trust bundle published", configuration=settings.webhook_configuration, webhooks=stale)


def _readable(stored: StoredSecret | None, settings: InjectorSettings) -> Keyring | None:
    if stored is None:
        return None
    try:
        return from_data(stored.data)
    except KeyringError as error:
        log.error("stored certificates cannot be used", secret=settings.certificate_secret, error=str(error))
        return None


async def _write(store: Store, settings: InjectorSettings, keyring: Keyring, stored: StoredSecret | None) -> bool:
    if stored is None:
        return await store.create_secret(settings.certificate_secret, SECRET_TYPE, to_data(keyring))
    return await store.replace_secret(settings.certificate_secret, SECRET_TYPE, to_data(keyring), stored.resource_version)
