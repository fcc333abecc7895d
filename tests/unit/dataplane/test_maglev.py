"""Maglev's promises: even shares, little disruption, the same table whatever the order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wharfinger_dataplane._maglev import maglev
from wharfinger_dataplane._records import SET_SLOTS

BOUNDED = settings(max_examples=40, derandomize=True, deadline=None, database=None)
members = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=40, unique=True)


def owners(names: list[bytes], size: int = SET_SLOTS) -> list[bytes]:
    return [names[n] for n in maglev(names, size)]


@BOUNDED
@given(names=members)
def test_members_have_equal_shares_to_one_slot(names):
    shares = Counter(owners(names))
    assert set(shares) == set(names)
    assert max(shares.values()) - min(shares.values()) <= 1


@BOUNDED
@given(names=members.filter(lambda names: len(names) > 1))
def test_a_member_that_leaves_disturbs_few_of_the_others(names):
    before, after = owners(names), owners(names[1:])
    moved = sum(1 for old, new in zip(before, after, strict=True) if old not in (names[0], new))
    assert moved <= SET_SLOTS * 0.06


def test_half_the_connections_move_when_the_second_member_comes():
    moved = sum(old != new for old, new in zip(owners([b"a"]), owners([b"a", b"b"]), strict=True))
    assert moved == SET_SLOTS // 2


@BOUNDED
@given(names=members, seed=st.randoms(use_true_random=False))
def test_sorted_members_draw_one_table_whatever_order_they_came_in(names, seed):
    other = names[:]
    seed.shuffle(other)
    assert owners(sorted(names)) == owners(sorted(other))


def test_no_member_makes_no_table():
    assert maglev([], SET_SLOTS) == []


def test_more_members_than_slots_are_refused():
    with pytest.raises(ValueError, match="14 members in a table of 13 slots"):
        maglev([bytes([n]) for n in range(14)], 13)


def test_as_many_members_as_slots_have_one_each():
    assert sorted(maglev([bytes([n]) for n in range(13)], 13)) == list(range(13))
