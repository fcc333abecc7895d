"""The Tiltfile, run with recorders in place of Tilt's functions: Starlark, as it is used there, is Python.

That the names and paths in it exist is checked here; Tilt itself is not at hand where these tests run.
"""

import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[3]


class Recorder:
    """Tilt's functions, which note what they are called with."""

    def __init__(self, chart):
        self.chart = chart
        self.builds, self.objects, self.resources, self.syncs = {}, [], [], []
        self.defined = {}

    def functions(self):
        """Name -> function of all that the Tiltfile may call, and the one constant."""
        names = ("custom_build_with_restart", "docker_build", "fall_back_on", "helm", "k8s_resource", "k8s_yaml", "kustomize", "link",
                 "local", "local_resource", "port_forward", "read_file", "sync", "watch_file")
        return {name: getattr(self, name) for name in names} | {
            "TRIGGER_MODE_MANUAL": "manual", "config": self, "load": lambda *_: None, "allow_k8s_contexts": lambda _: None,
            "decode_yaml_stream": lambda text: list(yaml.safe_load_all(text)), "encode_yaml_stream": yaml.safe_dump_all,
        }

    def define_string(self, name, usage):
        self.defined[name] = usage

    def parse(self):
        return {}

    def existing(self, path):
        assert (TOP / path).exists(), f"the Tiltfile names {path}, which does not exist"
        return path

    def read_file(self, path):
        return (TOP / self.existing(path)).read_text()

    def watch_file(self, path):
        self.existing(path)

    def sync(self, local, remote):
        self.syncs.append((self.existing(local), remote))

    def fall_back_on(self, paths):
        for path in paths:
            self.existing(path)

    def docker_build(self, ref, context, dockerfile=None, only=(), **other):
        self.existing(context)
        self.builds[ref] = dockerfile and self.existing(dockerfile)
        for path in only:
            self.existing(path)
        assert set(other) <= {"build_args", "live_update", "match_in_env_vars", "dockerfile_contents"}

    def custom_build_with_restart(self, ref, command, image_deps, entrypoint, deps, ignore, live_update):
        assert entrypoint == ["python3", "-m"]
        dockerfile = command.partition("--file ")[2].split()[0]
        self.builds[ref] = self.existing(dockerfile)
        assert image_deps[0] in self.builds
        for path in deps:
            self.existing(path)

    def local(self, command, quiet):
        return subprocess.run(command, shell=True, cwd=TOP, capture_output=True, text=True, check=True).stdout

    def helm(self, path, name, namespace, set):
        ended = self.chart.helm("template", name, str(TOP / path), "--namespace", namespace, *(f"--set={value}" for value in set))
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def kustomize(self, path):
        resources = yaml.safe_load((TOP / path / "Kustomization").read_text())["resources"]
        return "---\n".join((TOP / path / name).read_text() for name in resources)

    def k8s_yaml(self, given):
        text = (TOP / given).read_text() if given.endswith(".yaml") else given
        self.objects += [document for document in yaml.safe_load_all(text) if document]

    def k8s_resource(self, workload="", new_name="", objects=(), resource_deps=(), **_):
        self.resources.append((workload or new_name, workload, objects, resource_deps))

    def local_resource(self, name, cmd, **_):
        self.resources.append((name, "", (), ()))

    def link(self, url, name):
        return url

    def port_forward(self, *_, **__):
        return None


@pytest.fixture(scope="module")
def tilt(chart):
    recorder = Recorder(chart)
    exec(compile((TOP / "Tiltfile").read_text(), "Tiltfile", "exec"), recorder.functions())
    return recorder


def workloads(tilt):
    return {document["metadata"]["name"]: document for document in tilt.objects if document["kind"] in ("Deployment", "DaemonSet")}


def test_K04_every_image_that_a_pod_names_is_built(tilt):
    named = {container["image"].rpartition(":")[0] for document in workloads(tilt).values()
             for container in document["spec"]["template"]["spec"]["containers"]}
    assert named <= set(tilt.builds)
    assert "wharfinger.local/sidecar" in tilt.builds


def test_every_resource_and_what_it_depends_on_exists(tilt):
    shown = [name for name, *_ in tilt.resources]
    assert len(shown) == len(set(shown))
    for _, workload, objects, dependencies in tilt.resources:
        assert not workload or workload in workloads(tilt)
        assert set(dependencies) <= set(shown)
        for selector in objects:
            name, kind = selector.split(":")
            assert [document for document in tilt.objects if (document["metadata"]["name"], document["kind"].lower()) == (name, kind)]


def test_every_workload_has_its_place_on_the_page(tilt):
    assert set(workloads(tilt)) == {workload for _, workload, *_ in tilt.resources if workload}


def test_chart_is_rendered_so_that_files_can_be_written_into_its_containers(tilt):
    for name in ("wharfinger-operator", "wharfinger-injector", "wharfinger-agent"):
        (container,) = workloads(tilt)[name]["spec"]["template"]["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is False
        assert container["command"] == ["python3", "-m"], "the restarting wrapper replaces the command and keeps the arguments"


def test_packages_are_synchronised_to_where_the_images_have_them(tilt):
    texts = {path: (TOP / path).read_text() for path in tilt.builds.values() if path}
    for local, remote in tilt.syncs:
        root = remote.partition("/lib/python")[0]
        assert any(root in text for text in texts.values()), f"no Dockerfile installs anything in {root}, where {local} is written"
