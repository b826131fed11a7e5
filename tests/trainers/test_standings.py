"""Where a job stands by its workers' word: whatever one of three or more claims, it moves nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.round_decisions import NOWHERE, START, Standing
from trainers.standings import agree, place


def standing(number: int, position: int | None = None) -> Standing:
    return Standing(number, 10 * number, 30 * number if position is None else position)


CASES = [
    # what they claim   the books   it stands at   who lies
    ([7, 7, 7],         7,          7,             []),
    ([7, 7, 6],         6,          7,             []),
    ([7, 6, 6],         6,          6,             []),     # trained again
    ([7, 6],            6,          7,             []),     # half of them
    ([7],               6,          7,             []),
    ([9, 9, 9, 3],      6,          9,             []),     # the books were away
    ([20],              6,          20,            []),
    ([20, 6, 6],        6,          6,             [0]),
    ([20, 6],           6,          6,             [0]),
    ([20, 0, 0],        6,          20,            []),     # newcomers say nothing
    ([20, 0, 0],        0,          0,             [0]),    # of a job that has only begun they do
    ([8, 6, 6],         6,          6,             [0]),
    ([1, 0, 0],         0,          0,             []),
    ([5, 6, 3],         6,          6,             []),     # what the books have heard of, one may hold alone
    ([],                6,          0,             []),
]  # fmt: skip


@pytest.mark.parametrize(("claimed", "committed", "at", "liars"), CASES)
def test_what_is_believed(claimed, committed, at, liars):
    claims = {slot: standing(number) for slot, number in enumerate(claimed)}
    agreed = agree(claims, committed=committed)
    assert (agreed.at, sorted(agreed.liars)) == (standing(at), liars)


def test_of_one_round_the_standing_counts_that_most_claim_and_of_two_the_lesser():
    claims = {0: standing(6), 1: standing(6), 2: standing(6, 999)}
    assert agree(claims, committed=6).at == standing(6)
    assert agree({0: standing(6), 2: standing(6, 999)}, committed=6).at == standing(6)
    assert place(standing(6, 999), standing(6)) == NOWHERE


@given(
    at=st.integers(0, 50), members=st.integers(2, 6), behind=st.integers(0, 3),
    lie=st.builds(Standing, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
)  # fmt: skip
def test_one_liar_among_members_that_agree_moves_none_of_them(at, members, behind, lie):
    claims = {slot: standing(at) for slot in range(members)}
    agreed = agree({**claims, members: lie}, committed=max(0, at - behind))
    assert agreed.at == standing(at)
    assert set(agreed.liars) <= {members}
    assert all(place(claim, agreed.at) == claim for claim in claims.values())
    assert place(lie, agreed.at) in (lie, NOWHERE, START)
    assert place(lie, agreed.at) <= agreed.at
