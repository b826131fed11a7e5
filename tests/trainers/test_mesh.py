"""The contract of the mesh, on real sockets and on a network in memory alike."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.trainers.mesh_network import SOON_S, Crew, crew_of, eventually, results
from trainers.mesh import MeshTimeout, Superseded


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def real(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = set(threading.enumerate())
    yield bool(request.param)
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_S)
        assert not thread.is_alive(), f"{thread.name} outlives its mesh"


def text(slot: int) -> bytes:
    return b"payload of %d" % slot


def summed(slices: dict[int, bytes]) -> bytes:
    return np.sum([np.frombuffer(slices[slot]) for slot in sorted(slices)], axis=0).tobytes()


def reduce_all(crew: Crew, slots: list[int], step: int, owners: list[int]) -> dict[int, dict[int, bytes]]:
    def slices(slot: int) -> dict[int, bytes]:
        return {owner: np.full(5, 10.0 * slot + owner).tobytes() for owner in owners}

    return results({s: crew.start(crew.members[s].reduce, step, slices(s), summed, SOON_S) for s in slots})


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_gather_gives_everybody_everything(count: int, real: bool) -> None:
    with crew_of(count, real) as crew:
        slots = list(range(count))
        crew.set_view(1, 0, slots)
        for step in range(4):
            found = results(crew.gather(slots, step, lambda slot, step=step: text(slot) * step))
            assert found == {key: {slot: text(slot) * step for slot in slots} for key in slots}


@pytest.mark.parametrize("owners", [[0], [2], [0, 1, 2], [1, 2]], ids=["star", "star2", "butterfly", "some"])
def test_a_reduce_gives_everybody_every_owners_combination(owners: list[int], real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        expected = {owner: np.full(5, 30.0 + 3 * owner).tobytes() for owner in owners}
        for step in range(3):
            assert reduce_all(crew, [0, 1, 2], step, owners) == dict.fromkeys([0, 1, 2], expected)


def test_pairs_exchange_with_each_other_only(real: bool) -> None:
    with crew_of(5, real) as crew:
        crew.set_view(1, 0, [0, 1, 2, 3, 4])
        partners = {0: 3, 3: 0, 1: 2, 2: 1, 4: None}
        found = results({s: crew.start(crew.members[s].pair, 7, text(s), p, SOON_S) for s, p in partners.items()})
        assert found == {
            s: {one: text(one) for one in sorted({s} | ({p} if p is not None else set()))} for s, p in partners.items()
        }


def test_a_new_view_ends_the_waits_of_older_ones(real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        waiting = crew.gather([0, 1], 1, text)
        crew.set_view(1, 1, [0, 1])
        for future in waiting.values():
            with pytest.raises(Superseded):
                future.result(SOON_S)
        assert results(crew.gather([0, 1], 1, text)) == {key: {0: text(0), 1: text(1)} for key in [0, 1]}
        crew.members[0].set_view(crew.view(1, 0, [0, 1, 2]))
        assert crew.members[0].view == crew.view(1, 1, [0, 1]), "views only go forward"


def test_a_deadline_says_who_is_missing_and_the_call_can_go_on(real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        other = crew.gather([1], 1, text)
        with pytest.raises(MeshTimeout) as missed:
            crew.members[0].gather(1, text(0), 0.3)
        assert 2 in missed.value.missing
        assert results(crew.gather([0, 2], 1, text) | other) == {
            key: {s: text(s) for s in range(3)} for key in [0, 1, 2]
        }


def test_a_retry_takes_what_one_member_finished(real: bool) -> None:
    """Member 2 dies after all but one got its payload: that one gets it from the others."""
    with crew_of(3, real) as crew:
        view = crew.view(1, 0, [0, 1, 2])
        crew.members[0].set_view(view)
        crew.members[2].set_view(crew.view(1, 0, [0, 1, 2]))
        first = crew.start(crew.members[0].gather, 1, text(0), SOON_S)
        last = crew.start(crew.members[2].gather, 1, text(2), SOON_S)
        crew.members[1].set_view(view)
        crew.members[1].gather(1, text(1), SOON_S)  # 1 has sent; now it forgets, as if it had been cut off
        assert first.result(SOON_S) == last.result(SOON_S)
        crew.members[1].close()
        crew.add(1, epoch=2)
        crew.members[2].close()
        crew.set_view(1, 1, [0, 1])
        again = results(crew.gather([0, 1], 1, lambda slot: b"other" + text(slot)))
        assert again == {key: {slot: text(slot) for slot in range(3)} for key in [0, 1]}


def test_a_retry_waits_for_a_peer_whose_view_is_older(real: bool) -> None:
    with crew_of(2, real) as crew:
        crew.set_view(1, 0, [0, 1])
        newer = crew.view(1, 1, [0, 1])
        crew.members[0].set_view(newer)
        waiting = crew.start(crew.members[0].gather, 1, text(0), SOON_S)
        with pytest.raises(MeshTimeout):
            crew.members[1].gather(1, text(1), 0.2)
        assert not waiting.done()
        crew.members[1].set_view(newer)
        assert crew.members[1].gather(1, text(1), SOON_S) == waiting.result(SOON_S) == {0: text(0), 1: text(1)}


def test_a_partner_that_is_gone_leaves_one_alone(real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        waiting = crew.start(crew.members[0].pair, 1, text(0), 2, SOON_S)
        crew.members[2].close()
        crew.set_view(1, 1, [0, 1])
        with pytest.raises(Superseded):
            waiting.result(SOON_S)
        assert crew.members[0].pair(1, text(0), 2, SOON_S) == {0: text(0)}


def test_a_lost_peer_is_told_and_ends_no_wait(real: bool) -> None:
    with crew_of(2, real) as crew:
        crew.set_view(1, 0, [0, 1])
        results(crew.gather([0, 1], 1, text))
        assert crew.members[0].lost() == frozenset()
        crew.members[1].close()
        with pytest.raises(MeshTimeout) as missed:
            crew.members[0].gather(2, text(0), 1.0)
        assert missed.value.missing == crew.members[0].lost() == {1}


def test_big_payloads_cross_without_waiting_for_each_other(real: bool) -> None:
    with crew_of(2, real) as crew:
        crew.set_view(1, 0, [0, 1])
        found = results(crew.gather([0, 1], 1, lambda slot: bytes([slot]) * (48 << 20)))
        assert found[0] == found[1]
        assert {slot: (len(one), one[0], one[-1]) for slot, one in found[0].items()} == {
            0: (48 << 20, 0, 0), 1: (48 << 20, 1, 1)
        }  # fmt: skip


def test_a_payload_of_a_view_to_come_is_kept_for_it(real: bool) -> None:
    with crew_of(2, real) as crew:
        crew.set_view(1, 0, [0, 1])
        next_view = crew.view(2, 0, [0, 1])
        crew.members[1].set_view(next_view)
        early = crew.gather([1], 5, text)
        crew.members[0].set_view(next_view)
        assert crew.members[0].gather(5, text(0), SOON_S) == results(early)[1]


def test_a_round_that_went_on_is_superseded_for_who_names_the_old_one(real: bool) -> None:
    with crew_of(1, real) as crew:
        crew.set_view(2, 0, [0])
        with pytest.raises(Superseded):
            crew.members[0].gather(1, b"", SOON_S, round=1)
        assert crew.members[0].gather(1, b"x", SOON_S, round=2) == {0: b"x"}


def test_collectives_of_two_steps_may_run_side_by_side(real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        later = crew.gather([0, 1, 2], 2, lambda slot: b"later" + text(slot))
        sooner = crew.gather([2, 1, 0], 1, text)
        assert results(sooner)[1] == {slot: text(slot) for slot in range(3)}
        assert results(later)[1] == {slot: b"later" + text(slot) for slot in range(3)}


def test_connections_that_break_between_the_living_are_made_again() -> None:
    with crew_of(3, real=True) as crew:
        crew.set_view(1, 0, [0, 1, 2])
        results(crew.gather([0, 1, 2], 1, text))
        for step in (2, 3, 4):
            waiting = crew.gather([0, 1], step, text)
            for line in list(crew.members[step % 3]._links._guests):
                line.close()
            found = results(waiting | crew.gather([2], step, text))
            assert found[0] == found[1] == found[2] == {slot: text(slot) for slot in range(3)}
        eventually(lambda: all(mesh.lost() == frozenset() for mesh in crew.members.values()))


def test_a_view_without_an_owner_or_without_oneself_is_another_one(real: bool) -> None:
    with crew_of(3, real) as crew:
        crew.set_view(1, 1, [0, 1])
        crew.members[2].set_view(crew.view(1, 1, [0, 1]))
        with pytest.raises(Superseded):
            crew.members[0].reduce(1, {0: b"", 2: b""}, summed, SOON_S)
        with pytest.raises(Superseded):
            crew.members[2].gather(1, b"", SOON_S)
        assert results(crew.gather([0, 1], 1, text))[0] == {0: text(0), 1: text(1)}
