"""The data plane of a node: the agent, and the two bodies of the core (BPF programs in the kernel, the Cython engine beside it).

What does not belong here: choosing ports or servers' states (the operator does), anything that talks to pods' applications, and packet
decisions in Python (they are in dataplane/bpf, once).
"""
