"""Every packet vector, through the loaded programs and through the engine."""

from __future__ import annotations

import pytest
from support.lab import inside
from vectors import answers, balancing, ends, errors, establishing, hostile, leftovers, moves, opening, outsiders, policy, substitutes, unaware
from vectors.vector import Step, Vector
from wharfinger_dataplane._engine import REASONS

MODULES = (opening, establishing, ends, errors, unaware, balancing, outsiders, leftovers, substitutes, hostile, policy, answers, moves)
VECTORS = [vector for module in MODULES for vector in module.VECTORS]
OUTCOMES = {reason.name: reason.outcome for reason in REASONS}
WITHOUT_VECTOR = {
    "none": "no decision; never counted",
    "rewrite_failed": "the kernel refuses only without memory; what the core asks of it is checked by parse before",
    "vlan": "a tag is beside the octets: tests/netns/test_stack.py",
    "other_host": "whose link address it is depends on the interface: tests/netns/test_stack.py",
    "reverse_path": "the engine has no routes: tests/netns/test_skipped.py",
    "server_asks": "of what wharf_ask makes, which marks it beside the octets: tests/netns/test_moves.py",
    "held": "of the programs that hold TCP for a moment, before any decision: tests/netns/test_attach.py",
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.sentence.replace(" ", "-"))
def test_the_programs_and_the_engine_do_as_the_vector_says(vector: Vector, load, namespace):
    twins = load(vector.capacity)
    inside(namespace, lambda: twins.play(vector))


def test_every_reason_has_a_vector():
    seen: set[str] = set()
    for vector in VECTORS:
        for step in vector.steps:
            if isinstance(step, Step):
                seen |= {step.reason} | ({"option_malformed"} if step.malformed else set())
                seen |= {step.way} if OUTCOMES[step.reason] == "forward" else set()
    assert {reason.name for reason in REASONS} - seen == set(WITHOUT_VECTOR)


def test_every_vector_has_a_sentence_of_its_own():
    assert len({vector.sentence for vector in VECTORS}) == len(VECTORS)
