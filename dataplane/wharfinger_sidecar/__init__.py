"""The native sidecar of an injected pod: the start gate, and a place for the pod's client side to live.

It holds no privilege, no host path and no Kubernetes token, and imports the standard library only: its memory is paid
once for every injected pod. What needs the API server or the kernel's tables belongs to the node's agent, not here.
"""
