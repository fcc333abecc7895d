"""Every path, address and version of one test cluster, made once from the environment.

Two clusters live on one machine when their `index` differs: names, addresses and directories all follow from it.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""tests/cluster of the checkout."""

GO = ROOT / "go"
PACKAGES = ROOT / "debian-packages.txt"
REGISTRY = "wharfinger.local"
"""The name in front of every image: a place that does not exist, so nothing is ever pulled."""


def cache_directory() -> Path:
    """Where builds survive: $WHARFINGER_CACHE, else wharfinger in the user's cache directory."""
    if given := os.environ.get("WHARFINGER_CACHE"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wharfinger"


@dataclass(frozen=True)
class NodeSettings:
    """One node: its names and addresses."""

    name: str
    address: str
    namespace: str
    pod_cidr: str
    directory: Path
    link: str
    """The switch's end of the node's cable."""
    uplink: str = "eth0"
    """The node's end, seen inside its namespace."""


@dataclass(frozen=True)
class Settings:
    """One cluster."""

    index: int
    node_count: int
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, node_count: int = 3) -> Settings:
        """Settings of cluster number $WHARFINGER_TESTBED_INDEX (0), its state in $WHARFINGER_TESTBED_DIR."""
        index = int(os.environ.get("WHARFINGER_TESTBED_INDEX", "0"))
        if not 0 <= index <= 9:
            raise ValueError(f"WHARFINGER_TESTBED_INDEX is {index}; give a number from 0 to 9")
        if not 1 <= node_count <= 20:
            raise ValueError(f"{node_count} nodes asked for; give a number from 1 to 20")
        state = os.environ.get("WHARFINGER_TESTBED_DIR") or f"/var/lib/wharfinger-testbed/{index}"
        return cls(index, node_count, Path(state).absolute(), cache_directory())

    @classmethod
    def control_plane_only(cls) -> Settings:
        """Settings of an API server without nodes, beside the cluster that the environment names."""
        beside = cls.from_environment()
        return cls((beside.index + 5) % 10, 0, beside.state.with_name(f"{beside.state.name}-control"), beside.cache)

    @property
    def prefix(self) -> str:
        """Starts the name of every namespace, link and control group of this cluster."""
        return f"whf{self.index}"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The wire between host, control plane and nodes."""
        return ipaddress.ip_network(f"172.30.{self.index}.0/24")

    def wire(self, host: int) -> str:
        """The address with this last number on the wire."""
        return str(self.subnet[host])

    @property
    def gateway(self) -> str:
        """The switch's own address: every node's default route, which leads nowhere."""
        return self.wire(1)

    @property
    def host_address(self) -> str:
        """This machine's address on the wire."""
        return self.wire(2)

    @property
    def control_address(self) -> str:
        """The API server's address."""
        return self.wire(10)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.control_address}:6443"

    @property
    def pod_cidr(self) -> str:
        """All nodes' pods."""
        return f"10.{244 - self.index}.0.0/16"

    @property
    def service_cidr(self) -> str:
        """All Services' cluster IPs."""
        return f"10.{96 + self.index}.0.0/16"

    @property
    def api_service_address(self) -> str:
        """The cluster IP of Service default/kubernetes."""
        return f"10.{96 + self.index}.0.1"

    @property
    def dns_address(self) -> str:
        """The cluster IP that pods' resolvers are given."""
        return f"10.{96 + self.index}.0.10"

    @property
    def switch_namespace(self) -> str:
        """The network namespace of the bridge that is the wire."""
        return f"{self.prefix}-switch"

    @property
    def control_namespace(self) -> str:
        """The network namespace of etcd, API server, controllers and scheduler."""
        return f"{self.prefix}-control"

    @property
    def host_link(self) -> str:
        """The only link made in the host's own namespace."""
        return f"{self.prefix}-host"

    @property
    def daemons_group(self) -> str:
        """The control group of all daemons; pods have groups of their own beside it."""
        return f"{self.prefix}/daemons"

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def records(self) -> Path:
        """One file for each process that was started."""
        return self.state / "processes"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "kubeconfig"

    @property
    def nodes(self) -> tuple[NodeSettings, ...]:
        """The nodes, in order."""
        return tuple(
            NodeSettings(
                name=f"node-{number}",
                address=self.wire(10 + number),
                namespace=f"{self.prefix}-node-{number}",
                pod_cidr=f"10.{244 - self.index}.{number}.0/24",
                directory=self.state / "nodes" / f"node-{number}",
                link=f"{self.prefix}-node-{number}",
            )
            for number in range(1, self.node_count + 1)
        )
