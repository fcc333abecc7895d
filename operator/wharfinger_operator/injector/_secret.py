"""The keyring as the data of a Secret of type kubernetes.io/tls, and back.

Keys: tls.crt and tls.key (the serving certificate), ca.crt (the authorities' certificates, oldest first: the trust bundle),
ca.key (their private keys in the same order). Values are base64, as the API has them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from wharfinger_operator.injector._keyring import Keyring, KeyringError, Pair, verify

SECRET_TYPE = "kubernetes.io/tls"
_PEM_BLOCK = re.compile(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----\n?", re.DOTALL)


def to_data(keyring: Keyring) -> dict[str, str]:
    """The Secret's data for `keyring`."""
    values = {
        "tls.crt": keyring.serving.certificate,
        "tls.key": keyring.serving.key,
        "ca.crt": keyring.trust_bundle,
        "ca.key": b"".join(authority.key for authority in keyring.authorities),
    }
    return {name: base64.b64encode(value).decode() for name, value in values.items()}


def from_data(data: Mapping[str, str]) -> Keyring:
    """The keyring in a Secret's `data`; KeyringError when it is incomplete, unreadable or does not fit together."""
    try:
        values = {name: base64.b64decode(data[name], validate=True) for name in ("tls.crt", "tls.key", "ca.crt", "ca.key")}
    except KeyError as error:
        raise KeyringError(f"the Secret has no {error.args[0]}") from error
    except binascii.Error as error:
        raise KeyringError(f"a value of the Secret is no base64: {error}") from error
    certificates, keys = _PEM_BLOCK.findall(values["ca.crt"]), _PEM_BLOCK.findall(values["ca.key"])
    if len(certificates) != len(keys) or not certificates:
        raise KeyringError(f"the Secret has {len(certificates)} authorities and {len(keys)} of their keys")
    keyring = Keyring(tuple(map(Pair, certificates, keys)), Pair(values["tls.crt"], values["tls.key"]))
    verify(keyring)
    return keyring
