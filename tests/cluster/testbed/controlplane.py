"""The control plane: the command lines of etcd, API server, controller manager and scheduler, and the objects a cluster starts with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import kubeconfigs
from .settings import Settings

Words = list[str]
ETCD = "http://127.0.0.1:2379"
STORE = ("etcd", "kube-apiserver")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")


def names(settings: Settings) -> Words:
    """The programs that run: without nodes, nothing but the API and its store."""
    return [*STORE, *(CONTROLLERS if settings.node_count else ())]


def etcd(settings: Settings) -> Words:
    """A store that need not survive a power cut."""
    return [
        "--name=testbed", f"--data-dir={settings.state}/etcd", "--unsafe-no-fsync", "--log-level=warn",
        f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=testbed=http://127.0.0.1:2380", "--snapshot-count=10000",
    ]


def apiserver(settings: Settings) -> Words:
    """Reaches webhooks by their endpoints, since no kube-proxy runs beside it. Without controllers nobody makes service accounts for pods."""
    pki = settings.certificates
    return [
        *([] if settings.node_count else ["--disable-admission-plugins=ServiceAccount"]),
        f"--advertise-address={settings.control_address}", "--secure-port=6443", "--allow-privileged=true",
        f"--etcd-servers={ETCD}", f"--service-cluster-ip-range={settings.service_cidr}",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-aggregator-routing=true",
        f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-certificate-authority={pki}/ca.crt", f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key", "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-accounts.pub", f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt", f"--proxy-client-key-file={pki}/front-proxy-client.key",
    ]


def controller_manager(settings: Settings) -> Words:
    """Without leader election: there is one."""
    pki = settings.certificates
    own = settings.state / "controller-manager.kubeconfig"
    return [
        f"--kubeconfig={own}", f"--authentication-kubeconfig={own}", f"--authorization-kubeconfig={own}", "--leader-elect=false",
        "--use-service-account-credentials=true", f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--root-ca-file={pki}/ca.crt", f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
        "--allocate-node-cidrs=false", f"--cluster-cidr={settings.pod_cidr}", f"--service-cluster-ip-range={settings.service_cidr}",
        "--kube-api-qps=100", "--kube-api-burst=200",
    ]


def scheduler(settings: Settings) -> Words:
    """Without leader election: there is one."""
    own = settings.state / "scheduler.kubeconfig"
    return [f"--kubeconfig={own}", f"--authentication-kubeconfig={own}", f"--authorization-kubeconfig={own}", "--leader-elect=false"]


ARGUMENTS: dict[str, Callable[[Settings], Words]] = {
    "etcd": etcd, "kube-apiserver": apiserver, "kube-controller-manager": controller_manager, "kube-scheduler": scheduler}


def write_kubeconfigs(settings: Settings) -> None:
    """The kubeconfigs of the administrator and of the control plane's own clients."""
    kubeconfigs.write(settings, "admin", settings.kubeconfig)
    for user in ("controller-manager", "scheduler"):
        kubeconfigs.write(settings, user, settings.state / f"{user}.kubeconfig")


def command(settings: Settings, program: Path) -> Words:
    """The whole command line of one program, given where it was built."""
    return [str(program), *ARGUMENTS[program.name](settings)]


def node_object(name: str, pod_cidr: str) -> dict:
    """A node as it is announced before its kubelet joins, so that its range of pod addresses is known and ours."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]}}
