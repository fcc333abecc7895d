"""What can go wrong in the testbed. A message says what was wrong, where, and what to do."""


class TestbedError(Exception):
    """The root of the testbed's errors."""

    __test__ = False  # not a test class, whatever pytest makes of the name


class SetupError(TestbedError):
    """Something this machine should have is missing and could not be installed."""


class BuildError(TestbedError):
    """A program or an image could not be built."""


class ClusterError(TestbedError):
    """The cluster did not come up, is not there, or did not do what it was asked."""
