"""The injector: the admission webhook that puts the sidecar into pods.

It keeps no state but its certificates, which live in a Secret, and knows nothing of pools: any replica can answer any
review. What a pod gets is decided in `_mutate`, a pure function; what concerns port pools belongs to the operator.
"""
