"""The commands' surface: arguments and help. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._errors import EXIT_CODES, EXIT_CODES_DUMP, EXIT_CODES_EXPLAIN, CliError, ExitCode
from ._keys import CHECK_KEYS, DUMP_KEYS, EXPLAIN_KEYS, POOLS_KEYS, STATUS_KEYS
from ._output import Output, as_json, console

if TYPE_CHECKING:
    from ._cluster import Cluster

Kubeconfig = Annotated[str | None, typer.Option(help="Path of the kubeconfig; KUBECONFIG and the usual place otherwise.", metavar="FILE")]
Context = Annotated[str | None, typer.Option(help="The kubeconfig's context; its current one otherwise.", metavar="NAME")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Pools of this namespace only.", metavar="NAME")]
Format = Annotated[Output, typer.Option("--output", "-o", help="json has stable keys, listed below.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=EXIT_CODES,
                  help="Wharfinger: which connection goes to which server, and why. Also reachable as: kubectl wharfinger.")


@app.callback()
def wharfinger() -> None:
    """Makes a lone command keep its name."""


@app.command(epilog=f"{CHECK_KEYS}\n\n{EXIT_CODES}")
def check(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where the release is, or will be.", metavar="NAME")] = "wharfinger-system",
    kubeconfig: Kubeconfig = None, context: Context = None, output: Format = Output.TEXT,
) -> None:
    """Before an installation: whether the cluster is fit for it. After: whether all of it is whole, and every selected pod injected."""
    with _cluster(kubeconfig, context) as cluster:
        from .check import print_check

        view = _check(cluster, namespace)
        _show(view, print_check, output)
        _leave(bool(view.problems))


@app.command(epilog=f"{DUMP_KEYS}\n\n{EXIT_CODES_DUMP}")
def sysdump(
    file: Annotated[Path | None, typer.Option(help="The archive to write; wharfinger-sysdump-TIME.tar.gz otherwise.", metavar="FILE")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where the release is.", metavar="NAME")] = "wharfinger-system",
    kubeconfig: Kubeconfig = None, context: Context = None, output: Format = Output.TEXT,
) -> None:
    """Writes resources, logs and every node's tables and counters into one archive, for those who help. No Secrets are in it."""
    with _cluster(kubeconfig, context) as cluster:
        from datetime import UTC, datetime

        from .pools import build_pools
        from .status import build_status
        from .sysdump import dump_to, print_dump

        views = {"check": lambda: _check(cluster, namespace), "pools": lambda: build_pools(cluster.pools(None)),
                 "status": lambda: build_status(cluster.installation(), cluster.pools(None))}
        view = dump_to(cluster, file, views, datetime.now(UTC))
        _show(view, print_dump, output)
        _leave(bool(view.missing))


@app.command(epilog=f"{STATUS_KEYS}\n\n{EXIT_CODES}")
def status(kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = None, output: Format = Output.TEXT) -> None:
    """Whether operator, injector and every node's agent do their work. Problems come first, each with its remedy."""
    with _cluster(kubeconfig, context) as cluster:
        from .status import build_status, print_status

        view = build_status(cluster.installation(), cluster.pools(namespace))
        _show(view, print_status, output)
        _leave(bool(view.problems))


@app.command(epilog=f"{POOLS_KEYS}\n\n{EXIT_CODES}")
def pools(kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = None, output: Format = Output.TEXT) -> None:
    """Service port pools and redirect port pools: ports used and free, servers ready, what does not hold and why."""
    with _cluster(kubeconfig, context) as cluster:
        from .pools import build_pools, print_pools

        view = build_pools(cluster.pools(namespace))
        _show(view, print_pools, output)
        _leave(bool(view.problems))


@app.command(epilog=f"{EXPLAIN_KEYS}\n\n{EXIT_CODES_EXPLAIN}")
def explain(
    dialled: Annotated[str, typer.Argument(metavar="ADDRESS:PORT", help="What the client dials: virtual address and port.")],
    client: Annotated[str | None, typer.Option("--from", metavar="ADDRESS:PORT", help="The client: its pod's address and port.")] = None,
    kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = None, output: Format = Output.TEXT,
) -> None:
    """Why a connection goes where it goes: the chain of questions, the reason, the server, and whose the port is.

    The slices are compiled and a SYN is put through the very code that the agents and the kernel's programs use.
    """
    with _cluster(kubeconfig, context, lambda: _endpoints(dialled, client)) as cluster:
        from ._probe import probe
        from .explain import build_explanation, print_explanation

        to, source = _endpoints(dialled, client)
        view = build_explanation(cluster.pools(namespace), to, source, probe)
        _show(view, print_explanation, output)
        _leave(view.reason.outcome != "forward")


def _check(cluster: Cluster, namespace: str) -> Any:
    from importlib.metadata import version

    from .check import build_check

    seen = cluster.surroundings(namespace)
    pools = cluster.pools(None) if seen.is_defined else None
    return build_check(seen, cluster.installation(), pools, namespace, version("wharfinger"))


def _endpoints(dialled: str, client: str | None) -> tuple[Any, Any]:
    from ._endpoint import endpoint

    return endpoint(dialled, "ADDRESS:PORT"), endpoint(client, "--from") if client else None


@contextmanager
def _cluster(kubeconfig: str | None, context: str | None, check: Callable[[], object] = lambda: None) -> Iterator[Cluster]:
    """The cluster to ask, after `check` of the command line; a CliError on the way is said and ends the process with its code."""
    try:
        check()
        from ._cluster import Cluster

        cluster = Cluster(kubeconfig, context)
        try:
            yield cluster
        finally:
            cluster.close()
    except CliError as error:
        complaints = console(stderr=True)
        complaints.print(f"Error: {error.what}", style="bold red", soft_wrap=True)
        complaints.print(f"  → {error.remedy}", soft_wrap=True)
        raise typer.Exit(error.code) from error


def _show(view: Any, print_view: Callable[[Any], None], output: Output) -> None:
    if output is Output.JSON:
        sys.stdout.write(as_json(view) + "\n")
    else:
        print_view(view)


def _leave(problems: bool) -> None:
    if problems:
        raise typer.Exit(ExitCode.PROBLEMS)
