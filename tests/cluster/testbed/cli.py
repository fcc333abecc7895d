"""The testbed's verbs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import builds, packages, toolchain
from .cache import Durations
from .cluster import Cluster
from .errors import ClusterError, TestbedError
from .progress import Reporter, tail
from .settings import PACKAGES, Settings, cache_directory

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Nodes = Annotated[int, typer.Option(help="How many nodes.", envvar="WHARFINGER_TESTBED_NODES")]


def _cluster(nodes: int = 3) -> Cluster:
    return Cluster(Settings.from_environment(nodes), Reporter(Durations(cache_directory() / "durations.json")))


def _existing() -> Cluster:
    """The cluster with as many nodes as it was started with."""
    settings = Settings.from_environment()
    count = len(list((settings.state / "nodes").glob("node-*")))
    return _cluster(count or 3)


@app.command()
def setup() -> None:
    """Installs missing Debian packages and finds (or fetches) a Go toolchain."""
    cluster = _cluster()
    packages.install(packages.read(PACKAGES), cluster.settings.cache / "logs" / "apt.log", cluster.reporter)
    cluster.reporter.say(f"Go: {toolchain.find_go(cluster.settings, cluster.reporter)}")


@app.command()
def build(components: Annotated[list[str] | None, typer.Argument(help="kubernetes, helm, helm3, jaeger, pause; else all")] = None) -> None:
    """Builds Kubernetes, Helm and Jaeger from their Go modules, unless they are in the cache."""
    cluster = _cluster()
    builds.build(cluster.settings, cluster.reporter, tuple(components or ()))


@app.command()
def up(nodes: Nodes = 3) -> None:
    """Starts the cluster, or says that it is up."""
    _cluster(nodes).up()


@app.command()
def down() -> None:
    """Ends the cluster and removes all it made."""
    _existing().down()


@app.command()
def status() -> None:
    """Shows the cluster's processes and nodes."""
    cluster = _existing()
    for name, alive in cluster.processes():
        print(f"{name:<24} {'runs' if alive else 'DEAD'}  {cluster.log_files().get(name, '')}")
    if not cluster.healthy():
        raise ClusterError("the cluster is not up, or not well. `python -m testbed up` starts it afresh.")
    print(cluster.kubectl("get", "nodes", "-o", "wide"), end="")


@app.command()
def logs(component: Annotated[str, typer.Argument(help="for example kube-apiserver or node-1-kubelet")],
         lines: Annotated[int, typer.Option("--lines", "-n")] = 50,
         follow: Annotated[bool, typer.Option("--follow", "-f")] = False) -> None:
    """Shows the end of a component's log."""
    files = _existing().log_files()
    if component not in files:
        raise ClusterError(f"no component is called {component}; there are {', '.join(files) or 'none: the cluster is down'}")
    if follow:
        os.execvp("tail", ["tail", "-n", str(lines), "-F", str(files[component])])
    print(tail(files[component], lines))


@app.command()
def kubeconfig() -> None:
    """Prints the path of the administrator's kubeconfig."""
    print(_existing().kubeconfig)


@app.command()
def environment() -> None:
    """Prints shell commands that put kubectl and helm on PATH and point them at the cluster: eval "$(python -m testbed environment)"."""
    found = _existing().environment()
    for name in ("PATH", "KUBECONFIG"):
        print(f"export {name}='{found[name]}'")


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(node: str, command: Annotated[list[str], typer.Argument(help="after --, for example: tcpdump -ni eth0")]) -> None:
    """Runs a command inside a node."""
    words = _existing().exec_command(node, *(command[1:] if command[0] == "--" else command))
    os.execvp(words[0], words)


@app.command()
def image_base() -> None:
    """Makes the base image and prints its name."""
    print(_cluster().images.base())


@app.command()
def image(name: str, file: Annotated[Path, typer.Option(help="the Dockerfile")],
          context: Annotated[Path, typer.Option(help="the folder it copies from")] = Path(),
          build_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE")] = None) -> None:
    """Builds wharfinger.local/NAME:dev and prints the path of its archive."""
    pairs = dict(word.split("=", 1) for word in build_arg or ())
    print(_cluster().images.build(name, file, context, pairs))


@app.command()
def image_of(program: Annotated[str, typer.Argument(help="jaeger or pause")]) -> None:
    """Builds the image of a program that `build` made, and prints the path of its archive."""
    print(_cluster().images.of_program(program))


@app.command()
def load(archives: list[Path]) -> None:
    """Imports image archives into every node."""
    cluster = _existing()
    with cluster.reporter.task("load", f"Loading {len(archives)} images into {len(cluster.nodes)} nodes", 10):
        cluster.load(*archives)


def main() -> None:
    """Runs the command line; what goes wrong is one message and exit code 1."""
    try:
        app()
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        sys.exit(1)
