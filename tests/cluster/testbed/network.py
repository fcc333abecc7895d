"""The wire: a bridge in a namespace of its own, and a cable from it to the host, the control plane and every node.

      host (its own namespace)        control plane            node-1 ... node-N
      whf0-host  172.30.0.2           eth0  .10                eth0  .11 ...
            \\______________________________|______________________/
                            bridge "wire" in whf0-switch, .1

The switch does not pass frames to netfilter, as no switch does: the nodes alone have rules. Everyone knows the way to every node's
pods; the default route ends at the switch, which answers "no route", so nothing of the cluster reaches the world.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence

from .errors import ClusterError
from .settings import NodeSettings, Settings

BRIDGE = "wire"
CONTROL_LINK = "control"
"""The switch's end of the control plane's cable."""
SWITCH_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}


def namespaces(settings: Settings) -> list[str]:
    """Every network namespace of the cluster."""
    return [settings.switch_namespace, settings.control_namespace, *(node.namespace for node in settings.nodes)]


def cable(settings: Settings, namespace: str, near: str, far: str, address: str) -> list[str]:
    """`ip` commands: a cable from the switch (`far`) to a namespace (`near`)."""
    return [
        f"link add {far} netns {settings.switch_namespace} type veth peer name {near} netns {namespace}",
        f"-n {settings.switch_namespace} link set {far} master {BRIDGE} up",
        f"-n {namespace} link set lo up",
        f"-n {namespace} address add {address}/{settings.subnet.prefixlen} dev {near}",
        f"-n {namespace} link set {near} up",
    ]


def pod_routes(settings: Settings, except_node: str = "") -> list[str]:
    """`ip` words: the way to each node's pods."""
    return [f"route replace {node.pod_cidr} via {node.address}" for node in settings.nodes if node.name != except_node]


def plan(settings: Settings) -> list[str]:
    """All `ip` commands that make the wire, in order. The host's own link comes last and by other means."""
    switch = settings.switch_namespace
    commands = [f"netns add {namespace}" for namespace in namespaces(settings)]
    commands += [
        f"-n {switch} link set lo up",
        f"-n {switch} link add {BRIDGE} type bridge",
        f"-n {switch} address add {settings.gateway}/{settings.subnet.prefixlen} dev {BRIDGE}",
        f"-n {switch} link set {BRIDGE} up",
    ]
    control = settings.control_namespace
    commands += cable(settings, control, "eth0", CONTROL_LINK, settings.control_address)
    commands += [f"-n {control} {route}" for route in [*pod_routes(settings), f"route replace default via {settings.gateway}"]]
    for node in settings.nodes:
        commands += cable(settings, node.namespace, node.uplink, node.link, node.address)
        routes = [*pod_routes(settings, except_node=node.name), f"route replace default via {settings.gateway}"]
        commands += [f"-n {node.namespace} {route}" for route in routes]
    return commands


def host_plan(settings: Settings) -> list[str]:
    """`ip` commands for the host's end: one link, one address, the routes to pods."""
    return [
        f"link add {settings.host_link} type veth peer name host netns {settings.switch_namespace}",
        f"-n {settings.switch_namespace} link set host master {BRIDGE} up",
        f"address add {settings.host_address}/{settings.subnet.prefixlen} dev {settings.host_link}",
        f"link set {settings.host_link} up",
        *pod_routes(settings),
    ]


def create(settings: Settings) -> None:
    """Makes the wire."""
    _refuse_overlap(settings)
    for command in [*plan(settings), *host_plan(settings)]:
        _ip(command.split())
    for key, value in SWITCH_SYSCTLS.items():
        in_namespace(settings.switch_namespace, ["/sbin/sysctl", "-q", "-w", f"{key}={value}"])


def remove(settings: Settings) -> None:
    """Removes every namespace and link with this cluster's names; what is in them goes with them."""
    present = _json(["netns", "list"])
    ours = [entry["name"] for entry in present if entry["name"].startswith(f"{settings.prefix}-")]
    if _link_exists(settings.host_link):
        _ip(["link", "delete", settings.host_link])
    for name in ours:
        _ip(["netns", "delete", name])


def plug(settings: Settings, node: NodeSettings, plugged: bool) -> None:
    """Plugs a node's cable into the switch, or pulls it."""
    _ip(["-n", settings.switch_namespace, "link", "set", node.link, "up" if plugged else "down"])


def part(settings: Settings, node: NodeSettings, parted: bool) -> None:
    """Keeps a node and the control plane from hearing each other, or lets them: the switch passes nothing between isolated ports."""
    others = [other for other in settings.nodes if other != node]
    isolated = parted or any(_isolated(settings, other.link) for other in others)
    for link, state in ((node.link, parted), (CONTROL_LINK, isolated)):
        _ip(["-n", settings.switch_namespace, "link", "set", link, "type", "bridge_slave", "isolated", "on" if state else "off"])


def _isolated(settings: Settings, link: str) -> bool:
    found = _json(["-details", "-n", settings.switch_namespace, "link", "show", link])
    return bool(found[0]["linkinfo"]["info_slave_data"]["isolated"])


def in_namespace(namespace: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in a network namespace, and in nothing else of it."""
    return _run([*enter(namespace), *argv])


def enter(namespace: str) -> list[str]:
    """The words in front of a command that runs it in a network namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def overlapping(settings: Settings, routes: Iterable[dict]) -> dict | None:
    """The first of the machine's routes (as `ip -json` gives them) that is in the way of the cluster's ranges."""
    ours = [settings.subnet, ipaddress.ip_network(settings.pod_cidr), ipaddress.ip_network(settings.service_cidr)]
    for route in routes:
        if route["dst"] != "default" and any(ipaddress.ip_network(route["dst"], strict=False).overlaps(network) for network in ours):
            return route
    return None


def _refuse_overlap(settings: Settings) -> None:
    route = overlapping(settings, _json(["-4", "route", "list"]))
    if route:
        raise ClusterError(f"this machine has a route to {route['dst']} by {route.get('dev')}, which is in the cluster's own ranges. "
                           f"Set WHARFINGER_TESTBED_INDEX to another number (it is {settings.index}).")


def _link_exists(name: str) -> bool:
    return any(link.get("ifname") == name for link in _json(["link", "show"]))


def _json(words: Iterable[str]) -> list[dict]:
    return json.loads(_run(["ip", "-json", *words]).stdout or "[]")


def _ip(words: Sequence[str]) -> None:
    _run(["ip", *words])


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(f"`{' '.join(argv)}` failed: {(result.stderr or result.stdout).strip()}")
    return result
