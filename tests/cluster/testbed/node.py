"""A node: the configuration of its containerd, CNI, kubelet and kube-proxy, and the specification of its first process."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from . import kubeconfigs, nodeinit
from .settings import REGISTRY, NodeSettings, Settings

PAUSE_IMAGE = f"{REGISTRY}/pause:dev"
SOCKET = "/run/containerd/containerd.sock"
CNI_BINARIES = ("/usr/lib/cni", "/opt/cni/bin")
DAEMONS = ("containerd", "kubelet", "kube-proxy")

SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}

# The kubelet sets these for the whole machine. The node sees them already set, so the machine keeps its own.
PRETEND = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}


def cgroup(settings: Settings, node: NodeSettings) -> str:
    """The control group of the node's pods."""
    return f"{settings.prefix}/{node.name}"


def containerd_config(node: NodeSettings, cni_binaries: str) -> str:
    """containerd 1.6's: images and snapshots in the node's directory, sockets in the node's own /run."""
    return f"""\
version = 2
root = "{node.directory}/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Lowering an OOM score takes a capability that many containers and virtual machines withhold.
restrict_oom_score_adj = true
# As containerd 2 does: a pod without privilege may listen on any port of its own.
enable_unprivileged_ports = true
enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_binaries}"
conf_dir = "{node.directory}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def cni_config(settings: Settings, node: NodeSettings) -> dict:
    """A bridge for the node's pods; packets leave with the pod's own address."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "mtu": 1500,
                "ipam": {"type": "host-local", "dataDir": f"{node.directory}/ipam", "ranges": [[{"subnet": node.pod_cidr}]],
                         "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def kubelet_config(settings: Settings, node: NodeSettings) -> dict:
    """For a machine that is shared: nothing reserved, nothing evicted, no image collected."""
    pki = settings.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{pki}/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-{node.name}.crt", "tlsPrivateKeyFile": f"{pki}/kubelet-{node.name}.key",
        "address": node.address, "healthzBindAddress": "127.0.0.1",
        "clusterDomain": "cluster.local", "clusterDNS": [settings.dns_address], "resolvConf": f"{node.directory}/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{cgroup(settings, node)}", "failCgroupV1": False, "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "failSwapOn": False, "oomScoreAdj": 0, "serializeImagePulls": False,
        "volumePluginDir": f"{node.directory}/volume-plugins",
        # A container that a test kills again and again is back within a second each time.
        "featureGates": {"KubeletCrashLoopBackOffMax": True}, "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "nodeStatusUpdateFrequency": "4s", "syncFrequency": "10s", "kubeAPIQPS": 100, "kubeAPIBurst": 200,
    }


def proxy_config(settings: Settings, node: NodeSettings, kubeconfig: Path) -> dict:
    """kube-proxy in nftables mode; conntrack's limits, which are the whole machine's, stay as they are."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clusterCIDR": settings.pod_cidr, "detectLocalMode": "ClusterCIDR", "hostnameOverride": node.name,
        "bindAddress": node.address, "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": str(kubeconfig)}, "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def daemons(settings: Settings, node: NodeSettings, programs: dict[str, Path]) -> list[dict]:
    """The node's daemons in the order in which they can start."""
    own = node.directory
    joined = str(joined_marker(node))
    return [
        {"name": "containerd", "after": [], "log": _log(settings, node, "containerd"),
         "argv": [str(programs["containerd"]), "--config", f"{own}/containerd.toml"]},
        {"name": "kubelet", "after": [SOCKET, joined], "log": _log(settings, node, "kubelet"),
         "argv": [str(programs["kubelet"]), f"--config={own}/kubelet.json", f"--kubeconfig={own}/kubelet.kubeconfig",
                  f"--hostname-override={node.name}", f"--node-ip={node.address}", "--root-dir=/var/lib/kubelet"]},
        {"name": "kube-proxy", "after": [joined], "log": _log(settings, node, "kube-proxy"),
         "argv": [str(programs["kube-proxy"]), f"--config={own}/kube-proxy.json"]},
    ]


def init_spec(settings: Settings, node: NodeSettings, programs: dict[str, Path]) -> dict:
    """What `nodeinit` reads."""
    own = node.directory
    return {
        "name": node.name,
        "keep": [str(settings.state), str(settings.cache)],
        "private": {"/var/lib": f"{own}/var-lib", "/var/log": f"{own}/var-log"},
        "directories": ["/var/lib/kubelet", "/run/containerd"],
        "pretend": PRETEND,
        "sysctls": SYSCTLS,
        "daemons": daemons(settings, node, programs),
    }


def joined_marker(node: NodeSettings) -> Path:
    """The file whose being there lets the kubelet and kube-proxy start: the API server is up and knows the node."""
    return node.directory / "joined"


def write_files(settings: Settings, node: NodeSettings, programs: dict[str, Path]) -> None:
    """Writes everything that the node reads."""
    own = node.directory
    for directory in ("cni", "var-lib", "var-log", "containerd"):
        (own / directory).mkdir(parents=True, exist_ok=True)
    binaries = next((path for path in CNI_BINARIES if Path(path, "bridge").exists()), CNI_BINARIES[0])
    (own / "containerd.toml").write_text(containerd_config(node, binaries))
    (own / "cni" / "10-pods.conflist").write_text(_json(cni_config(settings, node)))
    (own / "resolv.conf").write_text(f"# {node.name}: no resolver outside the cluster\n")
    (own / "kubelet.json").write_text(_json(kubelet_config(settings, node)))
    kubeconfigs.write(settings, f"kubelet-{node.name}", own / "kubelet.kubeconfig")
    proxy = kubeconfigs.write(settings, "proxy", own / "kube-proxy.kubeconfig")
    (own / "kube-proxy.json").write_text(_json(proxy_config(settings, node, proxy)))
    (own / "init.json").write_text(_json(init_spec(settings, node, programs)))


def init_command(node: NodeSettings) -> list[str]:
    """Starts the node's first process; killing what this starts kills the node."""
    return ["nsenter", f"--net=/run/netns/{node.namespace}", "--",
            "unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child=KILL", "--",
            sys.executable, "-I", "-S", nodeinit.__file__, str(node.directory / "init.json")]


def enter(init_pid: int) -> list[str]:
    """The words in front of a command that runs it inside the node."""
    return ["nsenter", "--target", str(init_pid), "--mount", "--net", "--pid", "--"]


def daemon_pid(init_pid: int, daemon: str) -> int | None:
    """The number of the node's daemon, as the machine numbers it; None while it does not run."""
    for pid in Path(f"/proc/{init_pid}/task/{init_pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]).name == daemon:
                return int(pid)
    return None


def _log(settings: Settings, node: NodeSettings, daemon: str) -> str:
    return str(settings.logs / f"{node.name}-{daemon}.log")


def _json(value: dict) -> str:
    return json.dumps(value, indent=1) + "\n"
