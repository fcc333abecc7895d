"""The injector's certificates as a state machine: from a keyring and the time to the keyring that should be.

Rules
- A keyring holds authorities (oldest first) and one serving certificate. The API server trusts all authorities in it.
- A new authority is made long before the youngest one expires. It is trusted at once, but signs only after OVERLAP, when every
  API server has the new trust bundle and every replica of the injector has read the keyring. So no review meets a stranger.
- The serving certificate is renewed when a third of its life is left, when its names are not those wanted, or when another
  authority than its issuer has taken over signing.
- An authority goes when it has expired; what it signed never outlives it.
- Nothing here reads a clock, a file or a network: the time is an argument, an aware datetime.

Profile: RFC 5280 (CA: basicConstraints, keyUsage; server: subjectAltName, extendedKeyUsage), keys on NIST P-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=365)
AUTHORITY_RENEWAL = timedelta(days=120)
"""An authority with less life than this left gets a successor: more than one serving certificate's whole life."""
SERVING_LIFE = timedelta(days=60)
OVERLAP = timedelta(hours=1)
BACKDATE = timedelta(minutes=5)
"""Certificates are valid from this long before they are made: clocks of API servers and nodes differ."""

AUTHORITY_NAME = "wharfinger-injector-ca"


class KeyringError(ValueError):
    """A stored keyring cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM (RFC 7468), one each."""

    certificate: bytes
    key: bytes

    @property
    def x509(self) -> x509.Certificate:
        """The certificate, parsed."""
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def made(self) -> datetime:
        """When it was made (UTC)."""
        return self.x509.not_valid_before_utc + BACKDATE

    @property
    def expires(self) -> datetime:
        """When it stops being valid (UTC)."""
        return self.x509.not_valid_after_utc


@dataclass(frozen=True)
class Keyring:
    """The injector's authorities, oldest first, and its serving certificate."""

    authorities: tuple[Pair, ...]
    serving: Pair

    @property
    def trust_bundle(self) -> bytes:
        """All authorities' certificates, PEM, oldest first: what the webhook configuration's caBundle must be."""
        return b"".join(authority.certificate for authority in self.authorities)


@dataclass(frozen=True)
class Renewal:
    """The keyring that should be, and why it differs from the one that was (no reason: it does not)."""

    keyring: Keyring
    reasons: tuple[str, ...]


def renew(keyring: Keyring | None, server_names: tuple[str, ...], now: datetime) -> Renewal:
    """The keyring to use from `now` on for a server called `server_names` (the first is the subject's common name)."""
    reasons: list[str] = []
    stored = keyring.authorities if keyring else ()
    authorities = tuple(authority for authority in stored if now < authority.expires)
    if len(authorities) < len(stored):
        reasons.append("an authority expired")
    if not authorities or authorities[-1].expires - now < AUTHORITY_RENEWAL:
        authorities = (*authorities, new_authority(now))
        reasons.append("no authority with enough life left")
    signing = _signing(authorities, now)
    serving = keyring.serving if keyring else None
    reason = _why_not(serving, signing, server_names, now)
    if serving is None or reason:
        serving = new_serving(signing, server_names, now)
        reasons.append(reason)
    return Renewal(Keyring(authorities, serving), tuple(reasons))


def _signing(authorities: tuple[Pair, ...], now: datetime) -> Pair:
    """The youngest authority that everybody has had time to trust; with none such, the oldest."""
    known = [authority for authority in authorities if now - authority.made >= OVERLAP]
    return known[-1] if known else authorities[0]


def _why_not(serving: Pair | None, signing: Pair, server_names: tuple[str, ...], now: datetime) -> str:
    """Why `serving` cannot stay; empty when it can."""
    if serving is None:
        return "no serving certificate"
    certificate = serving.x509
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    if serving.expires - now < (serving.expires - serving.made) / 3:
        return "the serving certificate nears its end"
    if names != [*server_names]:
        return "the serving certificate has other names"
    if _issuer_key_id(certificate) != _key_id(signing.x509):
        return "another authority signs now"
    return ""


def new_authority(now: datetime) -> Pair:
    """A fresh self-signed certificate authority, which may sign servers' certificates only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY_NAME)])
    builder = _builder(name, name, key.public_key(), now, now + AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_serving(authority: Pair, server_names: tuple[str, ...], now: datetime) -> Pair:
    """A fresh server certificate for `server_names`, signed by `authority`, which it does not outlive."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = authority.x509
    # A common name holds 64 characters at most (RFC 5280, appendix A); who verifies reads the alternative names.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_names[0][:64])])
    builder = _builder(name, signer.subject, key.public_key(), now, min(now + SERVING_LIFE, authority.expires))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in server_names]), critical=False)
    issuer = x509.AuthorityKeyIdentifier(key_identifier=_key_id(signer), authority_cert_issuer=None, authority_cert_serial_number=None)
    builder = builder.add_extension(issuer, critical=False)
    return _pair(builder.sign(_private_key(authority), hashes.SHA256()), key)


def verify(keyring: Keyring) -> None:
    """KeyringError unless every key fits its certificate and the serving certificate was signed by an authority in the ring."""
    try:
        for pair in (*keyring.authorities, keyring.serving):
            if _private_key(pair).public_key() != pair.x509.public_key():
                raise KeyringError(f"a private key does not fit the certificate of {pair.x509.subject.rfc4514_string()}")
        issuers = {_key_id(authority.x509): authority.x509 for authority in keyring.authorities}
        issuer = issuers.get(_issuer_key_id(keyring.serving.x509))
        if issuer is None:
            raise KeyringError("the serving certificate was signed by none of the authorities")
        keyring.serving.x509.verify_directly_issued_by(issuer)
    except KeyringError:
        raise
    except Exception as error:
        # The library has no common base for "this is no PEM", "no such extension", "wrong signature".
        raise KeyringError(f"a certificate or key is not readable: {error}") from error


def _builder(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates, key_cert_sign=sign_certificates, crl_sign=sign_certificates, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), encoded)


def _private_key(pair: Pair) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pair.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyringError(f"a private key is of type {type(key).__name__}, not elliptic curve")
    return key


def _key_id(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _issuer_key_id(certificate: x509.Certificate) -> bytes | None:
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
