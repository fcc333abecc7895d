"""One record of the kernel to one span. Pure: the clock's offset and all names are arguments.

Rules:
- The client's span is the root, the balancer's its child, the server's the balancer's child; each side computes all ids alone (_identity).
- Times are the kernel's; only the offset from its monotonic clock to wall time is ours.
- Attributes are OpenTelemetry's semantic conventions (client, server, network) as the role's application sees them, and wharfinger.*.
"""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from .._engine import REASONS
from .._records import END_RESET, Event, EventKind, EventRole, pack_address
from ._identity import UNKNOWN_ADDRESS, span_id
from ._names import Names

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
ROLE_NAMES = {EventRole.CLIENT: "client", EventRole.BALANCER: "balancer", EventRole.SERVER: "server"}
KINDS = {EventRole.CLIENT: SpanKind.CLIENT, EventRole.BALANCER: SpanKind.INTERNAL, EventRole.SERVER: SpanKind.SERVER}


@dataclass(frozen=True)
class Emitter:
    """Who speaks: the agent's resource and instrumentation scope, on every span alike."""

    resource: Resource
    scope: InstrumentationScope


def connection_span(event: Event, trace: int, offset_ns: int, names: Names, emitter: Emitter) -> ReadableSpan:
    """The span of one role in one connection. `offset_ns`: wall clock (since 1970) minus monotonic clock."""
    own, parent = span_ids(event, trace)
    role = ROLE_NAMES[event.role]
    virtual = event.virtual or names.virtual_address(event.scope)
    return ReadableSpan(
        name=f"{role} {endpoint(virtual, event.redirect_port)}",
        context=SpanContext(trace, own, False, SAMPLED),
        parent=SpanContext(trace, parent, True, SAMPLED) if parent else None,
        resource=emitter.resource,
        instrumentation_scope=emitter.scope,
        kind=KINDS[event.role],
        attributes=attributes_of(event, virtual, names),
        events=established(event, offset_ns),
        start_time=(event.started_ns or event.time_ns) + offset_ns,
        end_time=event.time_ns + offset_ns,
    )


def span_ids(event: Event, trace: int) -> tuple[int, int]:
    """(own span id, parent's span id or 0) of the role that reports `event`."""
    client = span_id(trace, EventRole.CLIENT, UNKNOWN_ADDRESS, event.redirect_port)
    if event.role is EventRole.CLIENT:
        return client, 0
    server = pack_address(event.server) if event.server else UNKNOWN_ADDRESS
    balancer = span_id(trace, EventRole.BALANCER, server, event.redirect_port)
    if event.role is EventRole.BALANCER:
        return balancer, client
    own = span_id(trace, EventRole.SERVER, server, event.service_port)
    return own, balancer if event.aware else 0  # nobody else traces what an unaware client began


def established(event: Event, offset_ns: int) -> tuple[SpanEvent, ...]:
    """The span's event at which the handshake ended, if it did."""
    if not event.established_ns:
        return ()
    return (SpanEvent("established", timestamp=event.established_ns + offset_ns),)


def endpoint(address: str | None, port: int) -> str:
    """address:port, RFC 3986's brackets around IPv6; :port alone without an address."""
    if address is None:
        return f":{port}"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def attributes_of(event: Event, virtual: str | None, names: Names) -> dict[str, str | int]:
    """Attributes without those whose value is unknown."""
    reason, client, server, pool = REASONS[event.reason], names.pod(event.client), names.pod(event.server), names.pool(event.scope)
    found = {
        "network.transport": "tcp",
        "network.type": "ipv6" if ":" in (event.client or "") else "ipv4",
        "client.address": event.client,
        "client.port": event.client_port,
        **_ends(event, virtual),
        "wharfinger.role": ROLE_NAMES[event.role],
        "wharfinger.reason": reason.name,
        "wharfinger.reason.words": reason.words,
        "wharfinger.scope": event.scope,
        "wharfinger.pool": pool and pool.name,
        "wharfinger.virtual_address": virtual,
        "wharfinger.redirect_port": event.redirect_port,
        "wharfinger.service_port": event.service_port,
        "wharfinger.target_port": event.target_port,
        "wharfinger.client": client and client.name,
        "wharfinger.client.node": client and client.node,
        "wharfinger.server": server and server.name,
        "wharfinger.server.address": event.server,
        "wharfinger.server.node": server and server.node,
        "wharfinger.ended_by": ended_by(event),
    }
    return {name: value for name, value in found.items() if value}


def ended_by(event: Event) -> str | None:
    """How a connection ended: "reset", or "fin" when both ends closed it; None while it lives."""
    if event.kind is not EventKind.CLOSED:
        return None
    return "reset" if event.ends & END_RESET else "fin"


def _ends(event: Event, virtual: str | None) -> dict[str, str | int | None]:
    """server.* and network.*: what the role's application dialled or listens on, and who is at the other end of the wire."""
    if event.role is EventRole.SERVER:
        return {
            "server.address": event.server, "server.port": event.target_port,
            "network.local.address": event.server, "network.local.port": event.service_port,
            "network.peer.address": event.client, "network.peer.port": event.client_port,
        }
    return {
        "server.address": virtual, "server.port": event.redirect_port,
        "network.peer.address": event.server, "network.peer.port": event.service_port or event.redirect_port,
    }
