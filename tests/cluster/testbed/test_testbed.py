"""What of the testbed can be said without a cluster: its builders are pure."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import sys
from pathlib import Path

import pytest
from cryptography import x509

from testbed import builds, certificates, cgroups, containers, controlplane, dockerfiles, network, node, toolchain
from testbed.api import ready_nodes
from testbed.cache import Durations, building, key_of
from testbed.errors import BuildError
from testbed.processes import Processes
from testbed.progress import remaining, run_logged, spell
from testbed.settings import Settings

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(index=2, node_count=3, state=tmp_path / "state", cache=tmp_path / "cache")


def test_two_clusters_share_no_name_and_no_address(settings: Settings) -> None:
    other = Settings(3, 3, settings.state, settings.cache)
    for key in ("subnet", "pod_cidr", "service_cidr"):
        one, two = (ipaddress.ip_network(getattr(each, key)) for each in (settings, other))
        assert not one.overlaps(two)
    assert not set(network.namespaces(settings)) & set(network.namespaces(other))


def test_link_names_fit_the_kernel(settings: Settings) -> None:
    links = [settings.host_link, *(found.link for found in Settings(9, 20, settings.state, settings.cache).nodes)]
    assert all(len(link) <= 15 for link in links)


def test_a_node_has_no_route_to_its_own_pods_over_the_wire(settings: Settings) -> None:
    routes = [command for command in network.plan(settings) if command.startswith(f"-n {settings.nodes[0].namespace} route")]
    assert not any(settings.nodes[0].pod_cidr in route for route in routes)
    assert sum("via 172.30.2.1" in route and route.rstrip().endswith(("12", "13")) for route in routes) == 2


def test_a_route_in_the_way_is_found_and_a_default_route_is_not(settings: Settings) -> None:
    assert network.overlapping(settings, [{"dst": "default"}, {"dst": "192.0.2.0/24"}]) is None
    assert network.overlapping(settings, [{"dst": "10.0.0.0/8"}]) == {"dst": "10.0.0.0/8"}


def test_a_kubelet_is_who_the_node_authorizer_expects(settings: Settings) -> None:
    certificates.write_all(settings, NOW)
    leaf = x509.load_pem_x509_certificate((settings.certificates / "kubelet-node-2.crt").read_bytes())
    assert leaf.subject.rfc4514_string() == "CN=system:node:node-2,O=system:nodes"
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate((settings.certificates / "ca.crt").read_bytes()))
    assert (settings.certificates / "ca.key").stat().st_mode & 0o077 == 0


def test_the_api_server_dials_endpoints_itself(settings: Settings) -> None:
    assert "--enable-aggregator-routing=true" in controlplane.command(settings, Path("/x/kube-apiserver"))


def test_the_kubelet_waits_for_its_runtime_and_for_the_api_server(settings: Settings) -> None:
    programs = {name: Path("/x") / name for name in node.DAEMONS}
    after = {daemon["name"]: daemon["after"] for daemon in node.init_spec(settings, settings.nodes[0], programs)["daemons"]}
    assert after["kubelet"] == [node.SOCKET, str(node.joined_marker(settings.nodes[0]))]
    assert after["containerd"] == []


def test_versions_come_from_go_mod() -> None:
    text = "module x\n\nrequire (\n\tk8s.io/kubernetes v1.34.4\n)\n\nrequire helm.sh/helm/v4 v4.3.1 // indirect\n"
    assert builds.required_version(text, "k8s.io/kubernetes") == "v1.34.4"
    assert builds.required_version(text, "helm.sh/helm/v4") == "v4.3.1"
    with pytest.raises(BuildError, match="requires no"):
        builds.required_version(text, "example.com/none")


def test_kubectl_will_say_its_version() -> None:
    flags = builds.linker_flags(builds.KUBERNETES, "require k8s.io/kubernetes v1.34.4\n")
    assert "-X k8s.io/component-base/version.gitVersion=v1.34.4" in flags
    assert "-X k8s.io/component-base/version.gitMinor=34" in flags


@pytest.mark.parametrize(("text", "version"), [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go 1.24", (1, 24, 0))])
def test_go_versions_are_read(text: str, version: tuple[int, int, int]) -> None:
    assert toolchain.parse(text) == version


def test_the_toolchain_is_a_module() -> None:
    assert toolchain.module_of((1, 26, 0), "aarch64") == "golang.org/toolchain@v0.0.1-go1.26.0.linux-arm64"


def test_a_dockerfile_is_keyed_by_what_it_copies(tmp_path: Path) -> None:
    text = ("ARG BASE\nFROM ${BASE} AS a\nARG what=app.py\n# COPY nothing /\n"
            "COPY --chown=1:1 $what \\\n  lib /\nCOPY --from=a /x /y\nADD [\"a b\", \"/\"]\n")
    assert dockerfiles.sources(text, {"BASE": "b"}) == ["app.py", "lib", "a b"]
    assert dockerfiles.sources(text, {"what": "other.py"})[0] == "other.py"
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(BuildError, match="no such file"):
        dockerfiles.files(tmp_path / "Dockerfile", tmp_path, {})


def test_a_key_follows_content_names_and_modes(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    keys = [key_of(folder)]
    (folder / "a").chmod(0o755)
    keys.append(key_of(folder))
    (folder / "a").rename(folder / "b")
    keys.append(key_of(folder))
    (folder / "b").write_text("2")
    keys.append(key_of(folder))
    assert len(set(keys)) == 4
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    assert key_of(folder) == keys[-1]
    assert key_of("ab", "c") != key_of("a", "bc")


def test_a_failed_build_leaves_no_target(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), building(tmp_path / "target") as scratch:
        assert scratch
        (scratch / "half").touch()
        1 / 0  # noqa: B018
    assert not (tmp_path / "target").exists()
    with building(tmp_path / "target") as scratch:
        assert scratch and not list(scratch.iterdir())
    with building(tmp_path / "target") as scratch:
        assert scratch is None


def test_estimates_are_remembered(tmp_path: Path) -> None:
    durations = Durations(tmp_path / "d.json")
    assert durations.last("x", 7) == 7
    durations.record("x", 3.14159)
    assert durations.last("x", 7) == 3.1


def test_times_are_spelt() -> None:
    assert (spell(316), spell(59), spell(3.21)) == ("5 min 16 s", "59 s", "3.2 s")
    assert remaining(10, 70) == "about 1 min 0 s left"
    assert remaining(80, 70) == "10 s longer than last time"


def test_a_failed_command_shows_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"exit code 3[\s\S]*    last words"):
        run_logged(["sh", "-c", "echo last words; exit 3"], tmp_path / "log")
    with pytest.raises(BuildError, match="not installed"):
        run_logged(["no-such-command"], tmp_path / "log")


def test_only_the_very_process_that_was_started_is_ended(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "records", tmp_path / "logs")
    record = processes.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
    path = tmp_path / "records" / "sleeper.json"
    path.write_text(path.read_text().replace(str(record.started_ticks), str(record.started_ticks + 1)))
    processes.kill("sleeper")
    assert record.alive()
    other = processes.start("other", ["sleep", "60"])
    processes.kill("other")
    assert not other.alive() and processes.get("other") is None
    os.kill(record.pid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    assert not record.alive()


def test_cgroup_trees_of_either_version_are_found() -> None:
    mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"
    assert cgroups.hierarchies(mounts) == [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/unified")]


def test_listings_are_read() -> None:
    listing = "REF TYPE DIGEST SIZE\nwharfinger.local/x:dev application/y sha256:1 5 MiB\n"
    assert containers.digests(listing) == {"wharfinger.local/x:dev": "sha256:1"}
    ready = {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    late = {"metadata": {"name": "b"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    assert ready_nodes({"items": [ready, late, {"metadata": {"name": "c"}}]}) == {"a"}
