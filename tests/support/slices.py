"""ServicePortSlices as the operator writes them, from a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wharfinger_api import ServicePortSlice, parse

VIRTUAL = "10.96.0.10"


def pool_slice(
    servers: Mapping[str, str],
    *,
    scope: int = 7,
    virtual: Sequence[str] = (VIRTUAL,),
    ports: Mapping[str, Sequence[int]] | None = None,
    redirect: Sequence[int] = (80,),
    policy: str = "Hash",
    target: int = 8080,
    states: Mapping[str, str] | None = None,
    name: str = "shop",
    generation: int = 1,
    moves: Mapping[str, object] | None = None,
) -> ServicePortSlice:
    """One pool in one slice. `servers`: name -> address; `ports`: name -> its service ports (20001, 20002, ... in order by default)."""
    ports = ports or {server: [20_000 + n] for n, server in enumerate(servers, 1)}
    return parse({
        "apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortSlice",
        "metadata": {"name": f"{name}-0", "namespace": "test", "uid": f"slice-{name}", "generation": generation,
                     "resourceVersion": str(generation)},
        "spec": {
            "pool": {"name": name, "uid": f"pool-{name}", "generation": 1}, "scope": scope, "forwardingMode": "Network",
            "moves": dict(moves or {}), "virtualAddresses": list(virtual),
            "redirects": [{"name": name, "generation": 1, "protocol": "TCP", "target": "http", "policy": policy,
                           "ports": [{"from": port, "to": port} for port in redirect]}] if redirect else [],
            "assignments": [
                {"server": f"test/{server}", "address": address, "node": "node", "podUID": f"uid-{server}",
                 "state": (states or {}).get(server, "Ready"), "since": "2026-01-01T00:00:00Z", "redirects": [name] if redirect else [],
                 "targets": [{"name": "http", "protocol": "TCP", "targetPort": target, "servicePorts": list(ports[server])}]}
                for server, address in servers.items()],
        },
    })
