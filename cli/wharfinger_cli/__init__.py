"""The command line, `wharfinger` and `kubectl wharfinger`: what the API server knows, said to people, with remedies.

Each command is a file: a pure builder of view data from what was read, and renderers of it. `_cluster` alone talks to the API server,
`main` alone to the terminal. What does not belong here: writing to the cluster but on an explicit order, and any decision of the data
plane (the engine makes them, with the agents' own code).
"""
