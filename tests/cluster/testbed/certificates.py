"""The cluster's certificates: one authority, and a leaf for everyone who speaks or is spoken to."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .settings import Settings

VALID = datetime.timedelta(days=365)
SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Leaf:
    """Who a certificate is for; the file's name says it too."""

    file: str
    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ()
    """DNS names and IP addresses it serves under; none for a client only."""


def leaves(settings: Settings) -> list[Leaf]:
    """Every certificate of the cluster."""
    api = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
           "127.0.0.1", settings.control_address, settings.api_service_address)
    nodes = (Leaf(f"kubelet-{node.name}", f"system:node:{node.name}", "system:nodes", (node.name, node.address)) for node in settings.nodes)
    return [
        Leaf("apiserver", "kube-apiserver", names=api),
        Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        Leaf("controller-manager", "system:kube-controller-manager"),
        Leaf("scheduler", "system:kube-scheduler"),
        Leaf("proxy", "system:kube-proxy"),
        Leaf("admin", "kubernetes-admin", "system:masters"),
        *nodes,
    ]


def write_all(settings: Settings, now: datetime.datetime) -> None:
    """Makes the authorities, all leaves and the service accounts' signing key."""
    folder = settings.certificates
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key, authority = _authority("wharfinger-testbed", now)
    _write(folder, "ca", key, authority)
    for leaf in leaves(settings):
        _write(folder, leaf.file, *_leaf(leaf, key, authority, now))
    front_key, front = _authority("wharfinger-testbed-front-proxy", now)
    _write(folder, "front-proxy-ca", front_key, front)
    _write(folder, "front-proxy-client", *_leaf(Leaf("front-proxy-client", "front-proxy-client"), front_key, front, now))
    signer = ec.generate_private_key(ec.SECP256R1())
    _write_private(folder / "service-accounts.key", _private(signer))
    (folder / "service-accounts.pub").write_bytes(signer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def _name(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.CertificateBuilder:
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - SKEW).not_valid_after(now + VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                         key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
                         encipher_only=False, decipher_only=False)


def _authority(name: str, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (_builder(_name(name), _name(name), key, now)
                   .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                   .add_extension(_usage(signs_certificates=True), critical=True).sign(key, hashes.SHA256()))
    return key, certificate


def _leaf(leaf: Leaf, authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate,
          now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if leaf.names else [])]
    builder = (_builder(_name(leaf.common_name, leaf.organization), authority.subject, key, now)
               .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
               .add_extension(_usage(signs_certificates=False), critical=True)
               .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
               .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False))
    if leaf.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(leaf.names)), critical=False)
    return key, builder.sign(authority_key, hashes.SHA256())


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    _write_private(folder / f"{name}.key", _private(key))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
