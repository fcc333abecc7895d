"""A real Kubernetes of several nodes on one machine, for demo, tests and benches.

Nothing in here knows Wharfinger: it builds Kubernetes, Helm and Jaeger, starts and ends clusters, and builds and loads images.
"""

from .cluster import Cluster
from .errors import BuildError, ClusterError, SetupError, TestbedError
from .images import Images, reference
from .progress import Reporter
from .settings import NodeSettings, Settings

__all__ = ["BuildError", "Cluster", "ClusterError", "Images", "NodeSettings", "Reporter", "Settings", "SetupError", "TestbedError",
           "reference"]
