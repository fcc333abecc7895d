"""Certificates over time, and the Secret that holds them. No test waits: the time is an argument."""

import base64
import random
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from wharfinger_operator.injector import _keyring as keyring_module
from wharfinger_operator.injector._keyring import AUTHORITY_LIFE, OVERLAP, SERVING_LIFE, Keyring, KeyringError, new_authority, renew, verify
from wharfinger_operator.injector._secret import from_data, to_data

NAMES = ("wharfinger-injector.wharfinger-system.svc", "wharfinger-injector.wharfinger-system")


def trusts(bundle: bytes, serving, at) -> bool:
    """Whether a client that trusts `bundle`, as an API server does its caBundle, accepts `serving` at that time."""
    verifier = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(bundle))).time(at)
    try:
        verifier.build_server_verifier(x509.DNSName(NAMES[0])).verify(serving.x509, [])
    except VerificationError:
        return False
    return True


def test_first_keyring_is_trusted_by_its_own_bundle_and_says_why_it_was_made(now):
    renewal = renew(None, NAMES, now)
    assert renewal.reasons == ("no authority with enough life left", "no serving certificate")
    assert trusts(renewal.keyring.trust_bundle, renewal.keyring.serving, now)
    verify(renewal.keyring)


def test_fresh_keyring_is_left_as_it_is(now):
    keyring = renew(None, NAMES, now).keyring
    later = renew(keyring, NAMES, now + timedelta(days=1))
    assert later.reasons == ()
    assert later.keyring == keyring


def test_clock_that_is_some_minutes_behind_accepts_the_certificates(now):
    keyring = renew(None, NAMES, now).keyring
    assert trusts(keyring.trust_bundle, keyring.serving, now - timedelta(minutes=4))


def test_serving_certificate_is_renewed_when_a_third_of_its_life_is_left(now):
    keyring = renew(None, NAMES, now).keyring
    assert renew(keyring, NAMES, now + SERVING_LIFE * 0.66).reasons == ()
    renewal = renew(keyring, NAMES, now + SERVING_LIFE * 0.67)
    assert renewal.reasons == ("the serving certificate nears its end",)
    assert renewal.keyring.authorities == keyring.authorities


def test_serving_certificate_is_renewed_when_the_service_is_called_otherwise(now):
    keyring = renew(None, NAMES, now).keyring
    assert renew(keyring, ("other.svc",), now).reasons == ("the serving certificate has other names",)


def test_new_authority_is_trusted_first_and_signs_only_after_the_overlap(now):
    keyring = renew(None, NAMES, now).keyring
    then = now + timedelta(days=246)
    keyring = renew(keyring, NAMES, then).keyring
    assert len(keyring.authorities) == 2
    assert trusts(keyring.authorities[0].certificate, keyring.serving, then)
    assert renew(keyring, NAMES, then + OVERLAP - timedelta(seconds=1)).reasons == ()
    taken_over = renew(keyring, NAMES, then + OVERLAP)
    assert taken_over.reasons == ("another authority signs now",)
    assert trusts(taken_over.keyring.authorities[1].certificate, taken_over.keyring.serving, then + OVERLAP)


def test_no_review_meets_a_stranger_in_three_years_of_renewals_by_replicas_that_lag(now):
    """Before each step the API server may still have the bundle of an hour ago, and a replica may still serve what it had then."""
    choice = random.Random(4)
    keyring = renew(None, NAMES, now).keyring
    before, kinds = keyring, set()
    for _ in range(3 * 365 * 2):
        now += timedelta(hours=choice.choice([1, 6, 12, 24, 36]))
        renewal = renew(keyring, NAMES, now)
        kinds |= set(renewal.reasons)
        before, keyring = keyring, renewal.keyring
        for bundle in (before.trust_bundle, keyring.trust_bundle):
            for serving in (before.serving, keyring.serving):
                assert trusts(bundle, serving, now)
        assert len(keyring.authorities) <= 2
    assert kinds == {"an authority expired", "no authority with enough life left", "the serving certificate nears its end",
                     "another authority signs now"}


def test_injector_that_slept_for_years_starts_anew(now):
    keyring = renew(None, NAMES, now).keyring
    then = now + 3 * AUTHORITY_LIFE
    renewal = renew(keyring, NAMES, then)
    assert len(renewal.keyring.authorities) == 1
    assert trusts(renewal.keyring.trust_bundle, renewal.keyring.serving, then)


def test_serving_certificate_never_outlives_its_authority(now):
    authority = new_authority(now)
    late = now + AUTHORITY_LIFE - timedelta(days=1)
    assert keyring_module.new_serving(authority, NAMES, late).expires == authority.expires


def test_authority_can_sign_nothing_but_certificates_and_the_server_can_sign_none(now):
    keyring = renew(None, NAMES, now).keyring
    authority, serving = keyring.authorities[0].x509.extensions, keyring.serving.x509.extensions
    assert authority.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert serving.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert serving.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False


def test_secret_gives_back_the_keyring_that_was_put_in(now):
    keyring = renew(None, NAMES, now).keyring
    keyring = renew(keyring, NAMES, now + timedelta(days=246)).keyring
    assert from_data(to_data(keyring)) == keyring


def broken(name, value):
    def change(data):
        data[name] = base64.b64encode(value).decode()
    return change


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data.pop("ca.key"), "has no ca.key"),
    (lambda data: data.update({"tls.crt": "*"}), "no base64"),
    (broken("ca.crt", b""), "0 authorities and 1 of their keys"),
    (broken("tls.crt", b"nonsense"), "not readable"),
    (broken("tls.key", b"nonsense"), "not readable"),
])
def test_secret_that_cannot_be_used_says_why(now, change, message):
    data = to_data(renew(None, NAMES, now).keyring)
    change(data)
    with pytest.raises(KeyringError, match=message):
        from_data(data)


def test_key_of_another_certificate_is_found_out(now):
    keyring, other = renew(None, NAMES, now).keyring, renew(None, NAMES, now).keyring
    with pytest.raises(KeyringError, match="does not fit the certificate"):
        verify(Keyring(keyring.authorities, keyring_module.Pair(keyring.serving.certificate, other.serving.key)))


def test_serving_certificate_of_another_authority_is_found_out(now):
    keyring, other = renew(None, NAMES, now).keyring, renew(None, NAMES, now).keyring
    with pytest.raises(KeyringError, match="signed by none"):
        verify(Keyring(keyring.authorities, other.serving))
