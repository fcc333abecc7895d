"""What the chart's hooks run when a release is uninstalled: before its objects go, agents leave their nodes; after, what it left goes too.

Neither is part of the operator, which is being taken away meanwhile.
"""
