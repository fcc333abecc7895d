"""The JSON keys of each command, as `--help` tells them: an interface, which tests/unit/cli compares with the views."""

CHECK_KEYS = (
    "JSON: installed, problems[] {where, what, remedy}, notes[] {where, what, remedy}, questions[] {question, well}."
)
DUMP_KEYS = "JSON: file, pieces, missing."
STATUS_KEYS = (
    "JSON: problems[] {where, what, remedy}, notes[] {where, what, remedy}, "
    "components[] {component, namespace, name, version, ready, wanted}, nodes[] {node, agent, "
    "version, kernel, attachMode, lease, leaseAgeS, slicesCurrent, slices, servers, clients}, poolsProgrammed, pools."
)
POOLS_KEYS = (
    "JSON: problems[] {where, what, remedy}, servicePortPools[] {namespace, name, virtualAddresses[], portRanges[], scope, total, used, "
    "resting, free, serversReady, serversAssigned, serversDraining, current, programmed, conditions[] {type, status, reason, message}}, "
    "redirectPortPools[] {namespace, name, pool, target, ports[], protocol, policy, virtualAddresses[], serversReady, current, "
    "programmed, conditions[] {type, status, reason, message}}."
)
EXPLAIN_KEYS = (
    "JSON: dialled, client, reason {name, outcome, words}, owner {kind, namespace, name, servicePortPool, scope, target, policy, "
    "server}, chosen {server, address, node, state, share, targetPort, servicePorts[]}, steps[] {question, answer, holds}, candidates[] "
    "{server, address, node, state, share, targetPort, servicePorts[]}."
)
