"""`wharfinger explain VIP:PORT [--from IP:PORT]`: why this server. Each question of the chain with its answer, and the engine's verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wharfinger_api import Assignment, AssignmentState, NodeReport, ServicePortSlice

from ._endpoint import Endpoint
from ._output import console, table
from ._seen import REPORTED_CLIENTS, Pools

if TYPE_CHECKING:
    from rich.console import Console

    from ._probe import Answer

ANYONE = Endpoint("192.0.2.1", 40000)
"""Stands in for a client that is not named: an address for documentation, which no pod has (RFC 5737)."""
NAMED = 6


@dataclass(frozen=True)
class Step:
    """One question of the chain and its answer; `holds` is whether the chain goes on."""

    question: str
    answer: str
    holds: bool


@dataclass(frozen=True)
class ReasonView:
    """Why, as counters, traces and this command name it; `outcome` is pass, forward, ..."""

    name: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Owner:
    """Whose the port is. `kind` is RedirectPortPool, or ServicePortPool for a service port, which then belongs to `server`."""

    kind: str
    namespace: str
    name: str
    service_port_pool: str
    scope: int
    target: str
    policy: str | None
    server: str | None


@dataclass(frozen=True)
class Candidate:
    """A server of the port. `share` of new connections, 0 to 1, for Ready ones; `service_ports` are those of the port's target."""

    server: str
    address: str
    node: str | None
    state: str
    share: float | None
    target_port: int
    service_ports: tuple[int, ...]


@dataclass(frozen=True)
class Explanation:
    """What `wharfinger explain -o json` prints. `client` is null without --from; `chosen` is null when no server is, or when the choice
    depends on what was not given (Hash without --from) or cannot be foretold (Random, RoundRobin)."""

    dialled: str
    client: str | None
    reason: ReasonView
    owner: Owner | None
    chosen: Candidate | None
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]


def build_explanation(pools: Pools, dialled: Endpoint, client: Endpoint | None, ask: Callable[..., Answer]) -> Explanation:
    """The view, given `ask(slices, client, dialled)`, the engine's answer (`_probe.probe`)."""
    slices = [piece for piece in pools.slices if dialled.address in piece.spec.virtual_addresses]
    selected = {pod.pod: pod.policy for report in pools.reports for pod in report.status.servers if pod.policy}
    policed = any(pod.policy for report in pools.reports for pod in report.status.clients if client and pod.address == client.address)
    answer = ask(slices, client or ANYONE, dialled, policed=policed)
    owner = _owner(slices, dialled.port)
    candidates = tuple(_candidates(slices, owner, answer, dialled.port)) if owner else ()
    chosen = _chosen(candidates, owner, answer, client)
    steps = [
        _address_step(pools, slices, dialled),
        *_port_steps(slices, owner, dialled),
        *_candidate_steps(owner, candidates, selected),
        *_choice_steps(owner, answer, chosen, client, selected),
        *(_client_step(pools.reports, client) if client else ()),
        *(_programmed_step(pools.reports, slices) if slices else ()),
    ]
    return Explanation(
        dialled=str(dialled), client=str(client) if client else None,
        reason=ReasonView(answer.reason.name, answer.reason.outcome, answer.reason.words),
        owner=owner, chosen=chosen, steps=tuple(steps), candidates=candidates)


def print_explanation(view: Explanation, out: Console | None = None) -> None:
    """The verdict first, then the chain, then the candidates."""
    out = out or console()
    out.print(f"{view.dialled} from {view.client or 'any aware client'}", style="bold", soft_wrap=True)
    if view.chosen:
        ports = ", ".join(map(str, view.chosen.service_ports)) or "none"
        out.print(f"→ {view.chosen.server} ({view.chosen.address} on {view.chosen.node or 'no known node'}), {view.chosen.state}: "
                  f"service port {ports}, target port {view.chosen.target_port}", soft_wrap=True)
    out.print(f"  because {view.reason.words} ({view.reason.name})\n", soft_wrap=True)
    for step in view.steps:
        out.print(f"{'✓' if step.holds else '✗'} {step.question} {step.answer}", soft_wrap=True)
    if view.candidates:
        out.print()
        out.print(table(("server", "address", "node", "state", "share", "service ports"),
                        ((found.server, found.address, found.node or "-", found.state, "-" if found.share is None else f"{found.share:.1%}",
                          ", ".join(map(str, found.service_ports))) for found in view.candidates)))


def _address_step(pools: Pools, slices: list[ServicePortSlice], dialled: Endpoint) -> Step:
    question = f"Is {dialled.address} a virtual address?"
    if slices:
        owners = sorted({f"{_pool(piece)} (scope {piece.spec.scope})" for piece in slices})
        return Step(question, f"Yes, of ServicePortPool {', '.join(owners)}.", True)
    others = sorted({address for piece in pools.slices for address in piece.spec.virtual_addresses})
    known = f"Those are {', '.join(others[:NAMED])}{' ...' if len(others) > NAMED else ''}." if others else "No pool has one yet."
    return Step(question, f"No: its connections are not ours. {known} Is its ServicePortPool Accepted? wharfinger pools", False)


def _port_steps(slices: list[ServicePortSlice], owner: Owner | None, dialled: Endpoint) -> Iterator[Step]:
    if not slices:
        return
    question = f"What is port {dialled.port}?"
    resting = next((held for piece in slices for held in piece.spec.assignments
                    if held.state is AssignmentState.RESTING and dialled.port in held.ports), None)
    if owner is None:
        yield Step(question, "No pool declares it: its connections are unaware (kube-proxy serves a Service's ports).", False)
    elif owner.server is None:
        yield Step(question, f"A redirect port of RedirectPortPool {owner.namespace}/{owner.name}: target {owner.target}, "
                             f"policy {owner.policy}.", True)
    elif resting:
        yield Step(question, f"A service port at rest since {resting.since:%Y-%m-%d %H:%M:%S} UTC, once of {resting.server}: not served "
                             "until it is given again.", False)
    else:
        yield Step(question, f"A service port of ServicePortPool {owner.namespace}/{owner.name}: it belongs to {owner.server} alone, "
                             f"for target {owner.target}.", True)


def _candidate_steps(owner: Owner | None, candidates: tuple[Candidate, ...], selected: Mapping[str, str]) -> Iterator[Step]:
    if owner is None or owner.server is not None:
        return
    ready = [found for found in candidates if found.state == AssignmentState.READY]
    others = [f"{found.server} is {found.state}" + (f", as NetworkPolicy {selected[found.server]} selects it" if found.server in selected else "")
              for found in candidates if found not in ready]
    named = f" ({'; '.join(others[:NAMED])}{' ...' if len(others) > NAMED else ''})" if others else ""
    remedy = "" if ready else " Only Ready ones are chosen: wharfinger status says what a server waits for."
    yield Step("Which servers may be chosen?", f"{len(ready)} of {len(candidates)} are Ready{named}.{remedy}", bool(ready))


def _choice_steps(owner: Owner | None, answer: Answer, chosen: Candidate | None, client: Endpoint | None,
                  selected: Mapping[str, str]) -> Iterator[Step]:
    if owner is None or answer.server is None:
        return
    question = "Which is it?"
    if owner.server in selected:
        yield Step(question, f"Its port names it, but NetworkPolicy {selected[owner.server]} selects it for ingress: it takes no aware SYN.", False)
    elif owner.server is not None:
        yield Step(question, "Its port names it.", True)
    elif owner.policy != "Hash":
        yield Step(question, f"Any of them: policy {owner.policy} decides anew for each connection.", True)
    elif client is None or chosen is None:
        yield Step(question, "Hash of the connection's addresses, ports and scope: give --from IP:PORT to see it.", True)
    else:
        passed_over = "" if answer.drawn == answer.server else "the client itself, so the next is taken: "
        yield Step(question, f"The connection's hash draws slot {answer.slot} of {answer.slots}, which leads to "
                             f"{passed_over}{chosen.server}.", True)


def _client_step(reports: Iterable[NodeReport], client: Endpoint) -> Iterator[Step]:
    question = f"Is {client.address} an aware client?"
    reports = tuple(reports)
    for report in reports:
        for pod in report.status.clients:
            if pod.address == client.address and pod.policy:
                yield Step(question, f"Pod {pod.pod} on {report.metadata.name} has its translator, but NetworkPolicy {pod.policy} selects it for "
                                     "egress: its new connections are unaware by rule, for the policy engine to judge.", False)
                return
            if pod.address == client.address:
                yield Step(question, f"Yes: pod {pod.pod} on {report.metadata.name}, translator attached.", True)
                return
    if any(len(report.status.clients) >= REPORTED_CLIENTS for report in reports):
        yield Step(question, f"Not known: a node reports its first {REPORTED_CLIENTS} clients only.", True)
    else:
        yield Step(question, "No agent reports it: as long as this is so its connections are unaware. Is its pod injected (label "
                             "wharfinger.io/inject=enabled on its namespace before it started), and its node's agent live?", False)


def _programmed_step(reports: Iterable[NodeReport], slices: list[ServicePortSlice]) -> Iterator[Step]:
    behind = [report.metadata.name for report in reports if not all(map(report.status.slices.has, slices))]
    question = "Do all nodes have these tables?"
    if behind:
        yield Step(question, f"Not yet {', '.join(sorted(behind)[:NAMED])}: connections from there may go by older ones.", False)
    else:
        yield Step(question, "Yes, every node that reports.", True)


def _owner(slices: list[ServicePortSlice], port: int) -> Owner | None:
    """Service ports before redirect ports, as the tables have it."""
    for piece in slices:
        for held in piece.spec.assignments:
            for target in held.targets:
                if port in target.service_ports:
                    return Owner("ServicePortPool", piece.metadata.namespace, piece.spec.pool.name, piece.spec.pool.name, piece.spec.scope,
                                 target.name, None, held.server)
    for piece in slices:
        for redirect in piece.spec.redirects:
            if any(port in span for span in redirect.ports):
                return Owner("RedirectPortPool", piece.metadata.namespace, redirect.name, piece.spec.pool.name, piece.spec.scope,
                             redirect.target, redirect.policy, None)
    return None


def _candidates(slices: list[ServicePortSlice], owner: Owner, answer: Answer, port: int) -> Iterator[Candidate]:
    for piece in slices:
        if piece.spec.scope != owner.scope:
            continue
        for held in piece.spec.assignments:
            if owner.server is None and (owner.name not in held.redirects or held.state is AssignmentState.RESTING):
                continue
            for target in held.targets:
                if target.name == owner.target and (owner.server is None or port in target.service_ports):
                    yield Candidate(held.server, held.address, held.node, held.state.value, _share(held, owner, answer), target.target_port,
                                    target.service_ports)


def _share(held: Assignment, owner: Owner, answer: Answer) -> float | None:
    if owner.server is not None or held.state is not AssignmentState.READY or not answer.slots:
        return None
    return answer.shares.get(held.address, 0) / answer.slots


def _chosen(candidates: tuple[Candidate, ...], owner: Owner | None, answer: Answer, client: Endpoint | None) -> Candidate | None:
    foreseen = owner is not None and (owner.server is not None or (owner.policy == "Hash" and client is not None))
    return next((found for found in candidates if foreseen and found.address == answer.server), None)


def _pool(piece: ServicePortSlice) -> str:
    return f"{piece.metadata.namespace}/{piece.spec.pool.name}"
