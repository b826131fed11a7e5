"""State for joiners: from several donors, verified; donors that die, stall or lie cost nothing but time."""

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.mesh_network import SOON_S, crew_of, results
from trainers.mesh import MeshTimeout, TransferFailed, state_transfer
from trainers.mesh.sockets import Counter, Wire
from trainers.mesh.state_transfer import Offers, choose_description
from trainers.mesh.wire import CHUNK_BYTES, Description, Header, Kind, What

STATE = random.Random(3).randbytes(5 * CHUNK_BYTES + 777)


@pytest.mark.parametrize("content", [b"", b"x", STATE[:CHUNK_BYTES], STATE], ids=["empty", "byte", "chunk", "more"])
def test_several_joiners_get_the_state_from_several_donors(content: bytes) -> None:
    with crew_of(6, real=True) as crew:
        made = []
        for slot in range(3):
            crew.members[slot].offer_state(4, lambda slot=slot: made.append(slot) or content)
        donors = [crew.members[slot].peer for slot in range(3)]
        fetched = results({s: crew.start(crew.members[s].fetch_state, 4, donors, SOON_S) for s in range(3, 6)})
        assert all(one == content for one in fetched.values())
        assert len(made) == len(set(made)), "each donor made its content once"


def test_an_offer_may_come_later_than_the_joiner() -> None:
    with crew_of(2, real=True) as crew:
        waiting = crew.start(crew.members[1].fetch_state, 4, [crew.members[0].peer], SOON_S)
        crew.members[0].offer_state(4, lambda: STATE)
        assert waiting.result(SOON_S) == STATE


def test_the_majority_says_what_the_state_is() -> None:
    with crew_of(4, real=True) as crew:
        for slot, content in enumerate([STATE[::-1], STATE, STATE]):
            crew.members[slot].offer_state(4, lambda content=content: content)
        donors = [crew.members[slot].peer for slot in range(3)]
        assert crew.members[3].fetch_state(4, donors, SOON_S) == STATE


@pytest.mark.parametrize("manner", ["lies", "stalls", "leaves"])
def test_a_donor_that_misbehaves_is_done_without(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked, end = Offers._answer, threading.Event(), threading.Event()
    with crew_of(3, real=True) as crew:
        bad = crew.members[0]._offers

        def misbehave(offers: Offers, question: Header) -> Any:
            if question.kind is not Kind.ASK_CHUNK:
                return answer(offers, question)
            if offers is not bad:
                assert asked.wait(SOON_S), "the bad donor is asked, too"
                return answer(offers, question)
            asked.set()
            if manner == "lies":
                head, chunk = answer(offers, question)
                return head, bytes(len(chunk))
            if manner == "leaves":
                raise ConnectionAbortedError
            end.wait(SOON_S)
            return answer(offers, question)

        monkeypatch.setattr(Offers, "_answer", misbehave)
        for slot in (0, 1):
            crew.members[slot].offer_state(4, lambda: STATE)
        donors = [crew.members[slot].peer for slot in (0, 1)]
        assert crew.members[2].fetch_state(4, donors, SOON_S) == STATE
        assert asked.is_set()
        end.set()


def test_without_any_donor_left_the_transfer_fails_and_says_why() -> None:
    with crew_of(3, real=True) as crew:
        donors = [crew.members[slot].peer for slot in (0, 1)]
        crew.members[0].close()
        crew.members[1].close()
        with pytest.raises(TransferFailed) as failed:
            crew.members[2].fetch_state(4, donors, SOON_S)
        assert set(failed.value.reasons) == {0, 1}
        with pytest.raises(TransferFailed, match="no donors"):
            crew.members[2].fetch_state(4, [], SOON_S)


def test_a_deadline_ends_a_transfer() -> None:
    never = threading.Event()
    with crew_of(2, real=True) as crew:
        crew.members[0].offer_state(4, lambda: b"late" * never.wait(SOON_S))
        with pytest.raises(MeshTimeout) as missed:
            crew.members[1].fetch_state(4, [crew.members[0].peer], 0.2)
        assert missed.value.missing == {0}
        never.set()


@given(votes=st.lists(st.sampled_from("abc"), max_size=7), silent=st.integers(0, 3), enough=st.booleans())
def test_a_description_is_chosen_as_soon_as_no_other_can_win(votes: list[str], silent: int, enough: bool) -> None:
    described = {slot: Description.of(vote.encode()) for slot, vote in enumerate(votes)}
    chosen = choose_description(described, silent, enough)
    counts = {one: list(described.values()).count(one) for one in described.values()}
    if chosen is None:
        assert not votes or (silent and not enough and 2 * max(counts.values()) <= len(votes) + silent)
    else:
        assert counts[chosen] == max(counts.values())


def test_the_latest_two_states_are_offered() -> None:
    offers = Offers()
    for round_ in (3, 4, 5):
        offers.put_state(round_, lambda: b"")
    assert [offers.get(What.STATE, round_) is not None for round_ in (3, 4, 5)] == [False, True, True]


def test_states_of_rounds_that_were_undone_are_offered_no_more() -> None:
    offers = Offers()
    for round_ in (5, 6, 4):
        offers.put_state(round_, lambda: b"")
    assert [offers.get(What.STATE, round_) is not None for round_ in (4, 5, 6)] == [True, False, False]


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12), limit=st.integers(0, 120), again=st.integers(0, 12))
def test_what_rounds_merged_is_offered_newest_first_as_far_as_it_weighs_less_than_the_limit(
    sizes: list[int], limit: int, again: int
) -> None:
    offers = Offers()
    for round_, size in enumerate(sizes):
        offers.put_round(round_, lambda: b"", size, limit)
    kept = [round_ for round_ in range(len(sizes)) if offers.get(What.ROUND, round_) is not None]
    most = next((n for n in range(len(sizes), -1, -1) if sum(sizes[len(sizes) - n :]) <= limit), 0)
    assert kept == list(range(len(sizes) - most, len(sizes)))
    offers.put_round(again, lambda: b"", 0, limit)
    assert all(offers.get(What.ROUND, round_) is None for round_ in range(again + 1, len(sizes)))
    assert offers.get(What.ROUND, again) is not None


def test_a_round_and_a_state_of_one_number_are_two_things() -> None:
    with crew_of(2, real=True) as crew:
        crew.members[0].offer_state(4, lambda: STATE)
        crew.members[0].offer_round(4, lambda: b"merged", 6, 100)
        donors = [crew.members[0].peer]
        assert crew.members[1].fetch_round(4, donors, SOON_S) == b"merged"
        assert crew.members[1].fetch_state(4, donors, SOON_S) == STATE


def test_what_a_donor_had_and_has_no_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_transfer, "LONGEST_ASKING_S", 10 * SOON_S)  # else an answer would come in any case
    with crew_of(2, real=True) as crew:
        for round_ in (4, 5):
            crew.members[0].offer_round(round_, lambda: b"merged", 6, 6)
        fetching = crew.start(crew.members[1].fetch_round, 4, [crew.members[0].peer], 10 * SOON_S)
        with pytest.raises(TransferFailed, match="has no record of round 4"):
            fetching.result(SOON_S)


def test_a_transfer_may_take_longer_than_its_patience_while_chunks_come(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, patience_s, took = Offers._answer, 1.0, []

    def slowly(offers: Offers, question: Header) -> Any:
        if question.kind is Kind.ASK_CHUNK:
            time.sleep(0.4)
        return answer(offers, question)

    monkeypatch.setattr(Offers, "_answer", slowly)
    with crew_of(2, real=True) as crew:
        crew.members[0].offer_state(4, lambda: STATE)
        began = time.monotonic()
        assert crew.members[1].fetch_state(4, [crew.members[0].peer], patience_s) == STATE
        took.append(time.monotonic() - began)
    assert took[0] > patience_s


def test_bytes_that_come_slowly_are_counted_as_they_come() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    counter, content = Counter(), random.Random(5).randbytes(1 << 20)
    line = Wire(ours, counter)
    with ThreadPoolExecutor(1) as pool, closing(line), closing(theirs):
        whole = pool.submit(line.receive, len(content))
        theirs.sendall(content[: 1 << 17])
        until = time.monotonic() + SOON_S
        while counter.received < 1 << 16:
            assert time.monotonic() < until, "an exchange over a slow line looks as if nothing moved"
            time.sleep(0.001)
        assert not whole.done()
        theirs.sendall(content[1 << 17 :])
        assert whole.result(SOON_S) == content
    assert counter.received == len(content)
