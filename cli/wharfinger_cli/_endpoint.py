"""IP:PORT, as people write it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ._errors import CliError, ExitCode


@dataclass(frozen=True)
class Endpoint:
    """An address in its canonical form and a port from 1 to 65535."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def endpoint(text: str, where: str) -> Endpoint:
    """`text` as an end point; CliError names `where` it stood and what is wrong with it. IPv6 addresses stand in brackets (RFC 3986)."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise _wrong(text, where, "a port from 1 to 65535 must follow the last colon")
    try:
        parsed = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        why = f"{address or 'nothing'} is not an IP address; of a Service take the cluster IP: kubectl get service"
        raise _wrong(text, where, why) from error
    if parsed.version == 6:
        raise _wrong(text, where, "connections over IPv6 are not redirected by this version")
    return Endpoint(str(parsed), int(port))


def _wrong(text: str, where: str, why: str) -> CliError:
    return CliError(f"{where} {text!r}: {why}", "Write it as 10.96.0.10:80.", ExitCode.USAGE)
