"""The agent of one node: watches slices and the node's pods, attaches programs, writes tables, and says what it has done.

What does not belong here: what tables hold for which slices (`wharfinger_dataplane.tables`), how spans are made
(`wharfinger_dataplane.telemetry`), and everything that is decided for the whole cluster (the operator does).
"""
