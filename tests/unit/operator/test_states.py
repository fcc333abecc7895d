"""The table of states, enumerated."""

from itertools import product

import pytest
from wharfinger_api import AssignmentState
from wharfinger_operator.states import ASSIGNED, NEXT, READY, RESTING, Standing, standing

EXPECTED = """
            gone     leaving  not ready policed  detached serving
Assigned    Resting  Draining Assigned  Assigned Assigned Ready
Ready       Resting  Draining Draining  Draining Draining Ready
Draining    Resting  Draining Draining  Draining Draining Ready
Resting     Resting  Resting  Assigned  Assigned Assigned Assigned
"""


def rows():
    for line in EXPECTED.strip().splitlines()[1:]:
        state, *following = line.split()
        yield from ((AssignmentState(state), seen, AssignmentState(then)) for seen, then in zip(Standing, following, strict=True))


@pytest.mark.parametrize(("state", "seen", "then"), list(rows()))
def test_every_state_has_one_answer_to_every_standing(state, seen, then):
    assert NEXT[state, seen] is then


def test_table_is_total():
    assert set(NEXT) == set(product(AssignmentState, Standing))


def test_only_an_attached_server_becomes_ready():
    assert {seen for (state, seen), then in NEXT.items() if then is READY} == {Standing.SERVING}


def test_resting_numbers_go_through_assigned_before_they_are_ready_again():
    assert {NEXT[RESTING, seen] for seen in Standing} == {RESTING, ASSIGNED}


def test_nothing_but_the_end_of_the_server_stops_its_ports_from_working():
    assert {seen for (state, seen), then in NEXT.items() if then is RESTING and state is not RESTING} == {Standing.GONE}


@pytest.mark.parametrize(("facts", "seen"), [
    ((False, True, True, True, True), Standing.GONE),
    ((True, True, True, True, True), Standing.LEAVING),
    ((True, False, False, True, True), Standing.NOT_READY),
    ((True, False, True, True, True), Standing.POLICED),
    ((True, False, True, False, False), Standing.DETACHED),
    ((True, False, True, False, True), Standing.SERVING),
])
def test_standing_is_the_first_that_holds(facts, seen):
    exists, leaving, ready, policed, attached = facts
    assert standing(exists=exists, leaving=leaving, ready=ready, policed=policed, attached=attached) is seen
