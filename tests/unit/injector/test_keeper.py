"""Two replicas and one Secret. The store here has the API server's rule of concurrency (a write must name the version it
read) and nothing else; the same is run against a real API server in tests/cluster/test_injection.py."""

import asyncio
from datetime import timedelta

import pytest
from wharfinger_operator.injector import _keeper
from wharfinger_operator.injector._cluster import StoredSecret
from wharfinger_operator.injector._keeper import ATTEMPTS, ContendedError
from wharfinger_operator.injector._secret import from_data

WEBHOOKS = ("namespace.inject.wharfinger.io", "pod.inject.wharfinger.io")


class MemoryStore:
    """One Secret and one webhook configuration; `before_write` runs between a reader's read and its write."""

    def __init__(self):
        self.data, self.version, self.writes = None, 0, 0
        self.trust = dict.fromkeys(WEBHOOKS, b"")
        self.before_write = None

    async def read_secret(self, _name):
        return None if self.data is None else StoredSecret(self.data, str(self.version))

    async def create_secret(self, _name, _kind, data):
        await self._interrupt()
        return await self._write(data) if self.data is None else False

    async def replace_secret(self, _name, _kind, data, resource_version):
        await self._interrupt()
        return await self._write(data) if resource_version == str(self.version) else False

    async def read_trust(self, _configuration):
        return dict(self.trust)

    async def write_trust(self, _configuration, webhooks, bundle):
        self.trust |= dict.fromkeys(webhooks, bundle)

    async def _interrupt(self):
        interruption, self.before_write = self.before_write, None
        if interruption:
            await interruption()

    async def _write(self, data):
        self.data, self.version, self.writes = data, self.version + 1, self.writes + 1
        return True


def synchronise(store, settings, now, held=None):
    return asyncio.run(_keeper.synchronise(store, settings, now, held))


def another_replica(store, settings, now, keyrings):
    """What runs between this replica's read and its write."""
    async def run():
        keyrings.append(await _keeper.synchronise(store, settings, now))
    return run


@pytest.fixture
def store():
    return MemoryStore()


def test_first_replica_makes_stores_and_publishes_a_keyring(store, settings, now):
    keyring = synchronise(store, settings, now)
    assert from_data(store.data) == keyring
    assert store.trust == dict.fromkeys(WEBHOOKS, keyring.trust_bundle)


def test_second_replica_uses_what_the_first_stored_and_writes_nothing(store, settings, now):
    first = synchronise(store, settings, now)
    assert synchronise(store, settings, now + timedelta(seconds=10)) == first
    assert store.writes == 1


def test_replica_that_loses_the_race_for_creation_takes_the_winners_keyring(store, settings, now):
    won = []
    store.before_write = another_replica(store, settings, now, won)
    assert synchronise(store, settings, now) == won[0]
    assert store.writes == 1


def test_replica_that_loses_the_race_for_renewal_takes_the_winners_keyring(store, settings, now):
    synchronise(store, settings, now)
    late, won = now + timedelta(days=50), []
    store.before_write = another_replica(store, settings, late, won)
    assert synchronise(store, settings, late) == won[0]
    assert store.writes == 2


def test_trust_bundle_comes_back_after_the_configuration_was_made_anew(store, settings, now):
    keyring = synchronise(store, settings, now)
    store.trust = dict.fromkeys(WEBHOOKS, b"")
    synchronise(store, settings, now)
    assert set(store.trust.values()) == {keyring.trust_bundle}


def test_new_authority_is_published_before_it_signs(store, settings, now):
    first = synchronise(store, settings, now)
    then = now + timedelta(days=246)
    second = synchronise(store, settings, then)
    assert set(store.trust.values()) == {first.trust_bundle + second.authorities[1].certificate}
    assert second.serving.x509.verify_directly_issued_by(first.authorities[0].x509) is None


@pytest.mark.parametrize("lost", [None, {"tls.crt": "nonsense"}])
def test_secret_that_is_lost_is_written_anew_from_what_a_replica_holds(store, settings, now, lost):
    held = synchronise(store, settings, now)
    store.data = lost
    assert synchronise(store, settings, now, held) == held
    assert from_data(store.data) == held
    assert synchronise(store, settings, now, held) == held
    assert store.writes == 2


def test_replica_follows_the_secret_rather_than_what_it_holds(store, settings, now):
    held = synchronise(store, settings, now)
    renewed = synchronise(store, settings, now + timedelta(days=50))
    assert synchronise(store, settings, now + timedelta(days=50), held) == renewed != held


def test_secret_that_cannot_be_used_is_replaced(store, settings, now):
    synchronise(store, settings, now)
    store.data = {"tls.crt": "nonsense"}
    keyring = synchronise(store, settings, now)
    assert from_data(store.data) == keyring
    assert set(store.trust.values()) == {keyring.trust_bundle}


def test_somebody_who_writes_the_secret_all_the_time_is_reported(store, settings, now):
    async def refuse(*_):
        return False

    store.replace_secret = store.create_secret = refuse
    with pytest.raises(ContendedError, match=f"{ATTEMPTS} writes in a row"):
        synchronise(store, settings, now)
