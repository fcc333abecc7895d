"""The operator: from what is seen in the cluster to slices, statuses and Events.

One way through: handlers -> snapshot -> plan -> apply. `plan` and what it calls (view, resolve, conflicts, allocate, advance, report) are
pure: a snapshot and a moment in, a plan out. Not in here: packets, tables, anything of a node (that is the agents', who read the slices),
and anything that users of the typed kinds share (that is wharfinger_api). Nothing imports this package but its own entry points.
"""
