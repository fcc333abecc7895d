"""The rules that a policy engine makes of NetworkPolicies on a node: in iptables with ipset, as some engines do, and in nftables. They stand where
engines put them, in the node's forward chain, and know what engines know: addresses and the ports that packets bear there.

No engine is at hand to be installed; what it would write is written here by hand, for the policies of the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NAME = "wharf-policy"
FORMS = ("iptables", "nftables")
Run = Callable[..., object]
"""Runs a command (its words) on the node; `input`: what it reads."""


@dataclass(frozen=True)
class Selected:
    """A pod that a policy selects for "Ingress" or "Egress", and what is allowed: (peer's address, first port, last port)."""

    direction: str
    address: str
    allowed: Sequence[tuple[str, int, int]] = ()


def enforce(form: str, run: Run, selected: Sequence[Selected]) -> None:
    """Puts `selected` into force, in place of what was. What is established goes on; what is not allowed is refused at once."""
    relax(form, run)
    if form == "nftables":
        run(["nft", "-f", "-"], input=_nftables(selected))
    else:
        run(["ipset", "restore"], input=_sets(selected))
        run(["iptables-restore", "--noflush"], input=_iptables(selected))


def relax(form: str, run: Run) -> None:
    """Takes all of it away, if there is any."""
    if form == "nftables":
        run(["nft", "-f", "-"], input=f"table ip {NAME} {{}}\ndelete table ip {NAME}\n")
        return
    run(["sh", "-c", f"iptables -D FORWARD -j {NAME} 2>/dev/null; iptables -F {NAME} 2>/dev/null; iptables -X {NAME} 2>/dev/null;"
                     f"for set in $(ipset list -n); do case $set in {NAME}-*) ipset destroy $set;; esac; done"])


def _nftables(selected: Sequence[Selected]) -> str:
    rules = ["ct state established,related accept"]
    for number, pod in enumerate(selected):
        own, peer = ("daddr", "saddr") if pod.direction == "Ingress" else ("saddr", "daddr")
        if pod.allowed:
            rules.append(f"ip {own} {pod.address} ip {peer} . tcp dport @allowed{number} accept")
        rules.append(f"ip {own} {pod.address} reject with icmp port-unreachable")
    sets = [f"set allowed{number} {{ type ipv4_addr . inet_service; flags interval; elements = {{ "
            + ", ".join(f"{address} . {first}-{last}" for address, first, last in pod.allowed) + " } }"
            for number, pod in enumerate(selected) if pod.allowed]
    chain = "chain forward { type filter hook forward priority filter; " + "; ".join(rules) + "; }"
    return f"table ip {NAME} {{\n" + "\n".join([*sets, chain]) + "\n}\n"


def _sets(selected: Sequence[Selected]) -> str:
    lines = []
    for number, pod in enumerate(selected):
        lines.append(f"create {NAME}-{number} hash:ip,port")
        lines += [f"add {NAME}-{number} {address},tcp:{first}-{last}" for address, first, last in pod.allowed]
    return "\n".join(lines) + "\n"


def _iptables(selected: Sequence[Selected]) -> str:
    rules = [f"-A {NAME} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"]
    for number, pod in enumerate(selected):
        own, match = ("-d", "src,dst") if pod.direction == "Ingress" else ("-s", "dst,dst")
        rules.append(f"-A {NAME} {own} {pod.address} -m set --match-set {NAME}-{number} {match} -j RETURN")
        rules.append(f"-A {NAME} {own} {pod.address} -j REJECT --reject-with icmp-port-unreachable")
    return "\n".join(["*filter", f":{NAME} - [0:0]", *rules, f"-I FORWARD -j {NAME}", "COMMIT"]) + "\n"
