"""The life of an assignment, as a table.

    Assigned -> Ready -> Draining -> Resting -> (removed)

A server is chosen for new connections only while Ready; its service ports work from Assigned to Draining; nobody gets them while Resting.
What a server is doing (Standing) is judged by an ordered chain; what follows from it stands in NEXT, which is total.
"""

from __future__ import annotations

from enum import StrEnum

from wharfinger_api import AssignmentState

ASSIGNED, READY, DRAINING, RESTING = AssignmentState


class Standing(StrEnum):
    """What a server is doing, from nothing to serving."""

    GONE = "gone"
    LEAVING = "leaving"
    """Terminating, or no longer among the pool's servers, but still running."""
    NOT_READY = "not ready"
    POLICED = "policed"
    """A NetworkPolicy selects it for ingress, so that new connections are unaware by rule."""
    DETACHED = "detached"
    """Ready as Kubernetes sees it, but its node's agent has not attached and programmed it."""
    SERVING = "serving"


def standing(*, exists: bool, leaving: bool, ready: bool, policed: bool, attached: bool) -> Standing:
    """The first of these that holds."""
    if not exists:
        return Standing.GONE
    if leaving:
        return Standing.LEAVING
    if not ready:
        return Standing.NOT_READY
    if policed:
        return Standing.POLICED
    return Standing.SERVING if attached else Standing.DETACHED


NEXT: dict[tuple[AssignmentState, Standing], AssignmentState] = {
    (ASSIGNED, Standing.GONE): RESTING,
    (ASSIGNED, Standing.LEAVING): DRAINING,
    (ASSIGNED, Standing.NOT_READY): ASSIGNED,
    (ASSIGNED, Standing.POLICED): ASSIGNED,
    (ASSIGNED, Standing.DETACHED): ASSIGNED,
    (ASSIGNED, Standing.SERVING): READY,
    (READY, Standing.GONE): RESTING,
    (READY, Standing.LEAVING): DRAINING,
    (READY, Standing.NOT_READY): DRAINING,
    (READY, Standing.POLICED): DRAINING,
    (READY, Standing.DETACHED): DRAINING,
    (READY, Standing.SERVING): READY,
    (DRAINING, Standing.GONE): RESTING,
    (DRAINING, Standing.LEAVING): DRAINING,
    (DRAINING, Standing.NOT_READY): DRAINING,
    (DRAINING, Standing.POLICED): DRAINING,
    (DRAINING, Standing.DETACHED): DRAINING,
    (DRAINING, Standing.SERVING): READY,
    # The same process is back (a static server listed again): the ports were nobody else's meanwhile.
    (RESTING, Standing.GONE): RESTING,
    (RESTING, Standing.LEAVING): RESTING,
    (RESTING, Standing.NOT_READY): ASSIGNED,
    (RESTING, Standing.POLICED): ASSIGNED,
    (RESTING, Standing.DETACHED): ASSIGNED,
    (RESTING, Standing.SERVING): ASSIGNED,
}
