"""One member's outer state: agrees with its peers to the bit, refuses other rounds, survives a move and a replay."""

import contextlib
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.codecs import BadPayload
from trainers.contributions import Bundle, slices_of, unpack_bundle, unpack_contribution, unpack_reduced
from trainers.filled import whole
from trainers.layout import layout_of
from trainers.member import Member, MemberError, RoundOrder
from trainers.options import strategy_options

LAYOUT = layout_of([("weight", (100, 90)), ("bias", (1000,))])
INITIAL = np.random.default_rng(0).normal(size=10_000).astype(np.float32)


def spec(name: str = "diloco", **options) -> dict:
    return {"strategy": strategy_options({"name": name, **options}), "steps": 100, "seed": 3}


def order(round: int = 1, slots=(0, 1, 4), steps: int = 10) -> RoundOrder:
    return RoundOrder(round, steps * (round - 1), steps * round, steps * round * len(slots), tuple(slots))


def trained(slot: int, member: Member) -> np.ndarray:
    noise = np.random.default_rng([slot, member.round]).normal(size=INITIAL.size).astype(np.float32)
    return member.parameters + noise * np.float32(0.01)


def members(slots=(0, 1, 4), given=None) -> list[Member]:
    return [Member(given or spec(), LAYOUT, INITIAL, slot=slot, epoch=10 + slot) for slot in slots]


def contributed(group: list[Member]) -> list[Member]:
    here = order(group[0].round + 1, [member.slot for member in group])
    for member in group:
        member.contribute(trained(member.slot, member), here)
    return group


def gather(group: list[Member]) -> dict[int, bytes]:
    return {member.slot: whole(member.payload()) for member in group}


def butterfly(group: list[Member], owners) -> dict[int, bytes]:
    cut = {member.slot: member.cut(owners) for member in group}
    at = {member.slot: member for member in group}
    return {owner: at[owner].combine({slot: cut[slot][owner] for slot in cut}, owners) for owner in owners}


def whole_round(group: list[Member]) -> None:
    results = gather(contributed(group))
    for member in group:
        member.merge(results)
        member.commit()


@pytest.mark.parametrize("name", ["diloco", "local_sgd", "fedavg", "sparseloco", "streaming_diloco"])
def test_members_agree_to_the_bit_round_after_round(name):
    group = members(given=spec(name, inner_steps=20))
    for number in range(1, 4):
        whole_round(group)
        assert {member.digest() for member in group} == {group[0].digest()}
        assert [(member.round, member.step) for member in group] == [(number, 10 * number)] * 3
    assert not np.array_equal(group[0].parameters, INITIAL)


@pytest.mark.parametrize("owners", [(0, 1, 4), (1,), (0, 4)], ids=["butterfly", "star", "two owners"])
@pytest.mark.parametrize("codec", ["identity", "int8"])
def test_slices_merged_by_their_owners_are_the_mean_that_everybody_would_have_made(owners, codec):
    alone, together = members(given=spec(codec=codec)), members(given=spec(codec=codec))
    whole_round(alone)
    results = butterfly(contributed(together), owners)
    for member in together:
        merged = member.merge(results)
        assert merged.accepted == (0, 1, 4)
        member.commit()
    assert {member.digest() for member in together} == {together[0].digest()}
    if codec == "identity":
        np.testing.assert_allclose(together[0].parameters, alone[0].parameters, rtol=1e-6, atol=1e-7)


def test_what_was_not_accepted_changes_nothing_and_is_named():
    some, only = members(), members()
    results = gather(contributed(some))
    here = order()
    only[0].contribute(trained(0, only[0]), here)
    merged = some[0].merge({**results, 1: results[1][:-1], 4: b"noise"})
    assert merged.accepted == (0,)
    assert set(merged.refused) == {1, 4}
    assert merged.digest == only[0].merge({0: only[0].payload()}).digest


def test_a_contribution_of_another_round_slot_or_shape_is_refused_by_name():
    group = contributed(members())
    payload = group[1].payload()
    for round_, slot, words in ((2, 1, "made for round 1"), (1, 0, "slot 1's")):
        with pytest.raises(BadPayload, match=words):
            unpack_contribution(payload, round=round_, step=0, slot=slot)
    other = Member(spec(), layout_of([("x", (7,))]), INITIAL[:7], slot=1)
    other.contribute(INITIAL[:7] * np.float32(0.5), order())
    assert 1 in group[0].merge({0: group[0].payload(), 1: other.payload()}).refused


def test_not_finite_work_is_refused_where_it_is_made():
    member = members()[0]
    with pytest.raises(BadPayload):
        member.contribute(np.full_like(INITIAL, np.nan), order())
    with pytest.raises(MemberError):
        member.payload()


def huge(payload: bytes) -> bytes:
    """Its last element finite, and too large for three of them to have a sum."""
    return payload[:-4] + np.float32(3e38).tobytes()


def test_a_finite_contribution_so_large_that_the_sum_might_overflow_is_refused_by_all_alike():
    group, only = (contributed(members(given=spec(codec="identity"))) for _ in range(2))
    results = gather(group)
    results[1] = huge(results[1])
    outcomes = [group[0].merge(results), group[2].merge(results)]
    assert {merged.accepted for merged in outcomes} == {(0, 4)}
    assert all("counts as not finite" in merged.refused[1] for merged in outcomes)
    expected = only[0].merge({slot: results[slot] for slot in (0, 4)}).digest
    assert {merged.digest for merged in outcomes} == {expected}
    with pytest.raises(BadPayload, match="counts as not finite"):
        members()[0].contribute(np.full_like(INITIAL, 3e38), order())


@pytest.mark.parametrize("slot", [0, 1, 4])
def test_bytes_that_call_themselves_the_other_kind_are_their_makers_alone(slot):
    group = contributed(members())
    results = gather(group)
    merged = group[0].merge({**results, slot: b"TR" + results[slot][2:]})
    assert (set(merged.refused), merged.accepted) == ({slot}, tuple(sorted({0, 1, 4} - {slot})))
    group = contributed(members())
    means = butterfly(group, (0, 1, 4))
    merged = group[0].merge({**means, slot: b"TC" + means[slot][2:]})
    assert (set(merged.refused), merged.accepted) == ({slot}, tuple(sorted({0, 1, 4} - {slot})))


OWING = {
    "diloco": spec("diloco", codec="int8", topology="butterfly"),
    "diloco with feedback": spec("diloco", codec="int8", topology="butterfly", error_feedback=True),
    "fedavg": spec("fedavg", codec="int8"),
    "streaming": spec("streaming_diloco", inner_steps=20, codec="int8", mixing=0.0, fragments=1, overlap_steps=0),
    "streaming that mixes": spec("streaming_diloco", inner_steps=20, codec="int8", fragments=1, overlap_steps=0),
    "streaming with feedback": spec(
        "streaming_diloco", inner_steps=20, codec="int8", fragments=1, overlap_steps=0, error_feedback=True
    ),
}


@pytest.mark.parametrize("owners", [(0, 1, 4), (1,)], ids=["butterfly", "star"])
@pytest.mark.parametrize("what", OWING)
def test_where_a_slice_of_the_mean_is_none_all_stay_and_what_they_sent_there_is_owed(what, owners):
    group = members(given=OWING[what])
    owed_before = np.linspace(-1, 1, INITIAL.size, dtype=np.float32) * np.float32(0.01)
    for member in group:  # late work, for example
        member._state = {**member.state, "residual": owed_before}
    means = butterfly(contributed(group), owners)
    start, stop = slices_of(INITIAL.size, owners)[1]
    means[1] = b""
    progress = {member.slot: member.parameters - trained(member.slot, member) for member in group}
    keep = group[0].strategy.keep
    for member in group:
        merged = member.merge(means)
        assert merged.accepted == (0, 4)
        assert "it made a bad slice of the mean: " in merged.refused[1]
        member.commit()
    assert len({member.digest() for member in group}) == 1
    lost = slice(start, stop)
    np.testing.assert_array_equal(group[0].parameters[lost], INITIAL[lost])
    for member in (group[0], group[2]):
        residual, mine = member.state["residual"], progress[member.slot]
        np.testing.assert_allclose(residual[lost], ((1 - keep) * mine + owed_before)[lost], atol=1e-7)
        rest = np.delete(residual, np.arange(start, stop))
        assert rest.any() == (member.strategy.error_feedback and rest.size > 0), "what the codec lost"
        assert np.square(rest).sum() < 1e-6 * INITIAL.size
    np.testing.assert_array_equal(group[1].state["residual"], owed_before, "it is not accepted")


def test_a_gradient_that_came_to_nothing_in_part_is_in_the_next_one_with_error_feedback():
    group = members(given=spec("ddp", codec="int8", error_feedback=True))
    here, gradient = order(1, steps=1), np.linspace(-1, 1, INITIAL.size, dtype=np.float32)
    for member in group:
        member.contribute(gradient, here, step=0, rate=0.01)
    means = butterfly(group, (0, 1, 4))
    start, stop = slices_of(INITIAL.size, (0, 1, 4))[1]
    means[1] = b""
    group[0].merge(means)
    assert not group[0].step_result()[start:stop].any()
    np.testing.assert_array_equal(group[0].state["gradient_residual"][start:stop], gradient[start:stop])
    assert np.abs(group[0].state["gradient_residual"][:start]).max() < 0.05


def test_who_was_refused_in_one_step_of_a_round_is_named_at_its_end():
    group = members(given=spec("ddp", topology="gather"))
    here = order(1, steps=2)
    for step in range(2):
        for member in group:
            member.contribute(np.full(INITIAL.size, member.slot, dtype=np.float32), here, step=step, rate=0.01)
        results = gather(group)
        if step == 0:
            results[4] = huge(results[4])
        for member in group[:2]:
            member.merge(results)
            assert np.allclose(member.step_result(), 0.5 if step == 0 else 5 / 3)
    for member in group[:2]:
        merged = member.finish(INITIAL, here)
        assert (merged.accepted, set(merged.refused)) == ((0, 1), {4})
        member.commit(merged.digest)
    for member in group[:2]:
        assert member.finish(INITIAL, order(2, steps=2)).refused == {}, "it is of that round alone"


def test_parameters_that_overflow_without_such_a_contribution_are_the_jobs_own_doing():
    member = Member(spec(codec="identity", outer_lr=100.0), LAYOUT, INITIAL)
    member._state = {**member.state, "momentum": np.full_like(INITIAL, 3e38)}
    member.contribute(INITIAL, order(slots=(0,)))
    with (
        np.errstate(over="ignore"),
        pytest.raises(BadPayload, match="round 1 would make parameters that are not finite"),
    ):
        member.merge({0: member.payload()})
    with pytest.raises(MemberError):
        member.commit()
    assert np.array_equal(member.parameters, INITIAL)


def test_a_round_that_is_not_next_is_refused_and_changes_nothing():
    member = members()[0]
    before = member.export()
    for number in (0, 2):
        with pytest.raises(MemberError):
            member.contribute(INITIAL, order(number))
    with pytest.raises(MemberError):
        member.commit()
    assert member.export() == before


def test_a_tentative_state_is_adopted_only_under_the_digest_that_was_agreed_on():
    group = contributed(members())
    merged = group[0].merge(gather(group))
    with pytest.raises(MemberError):
        group[0].commit("0" * 64)
    assert group[0].round == 0
    assert group[0].commit(merged.digest) == merged.digest
    group[1].abandon()
    with pytest.raises(MemberError):
        group[1].commit()


@pytest.mark.parametrize("name", ["diloco", "fedavg", "sparseloco", "streaming_diloco"])
def test_a_newcomer_stands_where_its_donor_stood_and_agrees_from_then_on(name):
    group = members(given=spec(name, inner_steps=20))
    whole_round(group)
    exported = {member.export() for member in group}
    assert len(exported) == 1, "donors give equal bytes"
    newcomer = Member(spec(name, inner_steps=20), LAYOUT, INITIAL, slot=7)
    newcomer.take_over(exported.pop())
    assert (newcomer.round, newcomer.step, newcomer.position) == (1, 10, 30)
    group = [group[0], newcomer]
    whole_round(group)
    assert group[0].digest() == newcomer.digest()


def test_late_work_is_sent_with_the_next_contribution():
    group = members(given=spec(codec="identity", outer_momentum=0.0, outer_lr=1.0))
    late = trained(4, group[2])
    group[2].contribute(late, order())
    for member in group[:2]:
        member.contribute(member.parameters, order(1))  # the others trained nothing
    results = gather(group[:2])
    for member in group[:2]:
        member.merge(results)
        member.commit()
    group[2].defer(late, order())
    group[2].take_over(group[0].export())
    for member in group:
        member.contribute(member.parameters, order(2))
    results = gather(group)
    for member in group:
        member.merge(results)
        member.commit()
    expected = INITIAL + (late - INITIAL) / np.float32(3)
    np.testing.assert_allclose(group[0].parameters, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "way"),
    [("diloco", "gather"), ("diloco", "butterfly"), ("sparseloco", "gather"), ("streaming_diloco", "gather")],
)
def test_a_base_and_the_bundles_since_make_the_same_state(name, way):
    group = members(given=spec(name, inner_steps=20))
    whole_round(group)
    base, bundles = group[0].export(own=True), []
    for _ in range(3):
        results = gather(contributed(group)) if way == "gather" else butterfly(contributed(group), (0, 1, 4))
        for member in group:
            member.merge(results)
            member.commit()
        bundles.append(group[1].bundle.pack())
    assert Member.replay(base, bundles) == group[0].export()
    with pytest.raises(MemberError):
        Member.replay(base, bundles[1:])


def test_steps_that_are_merged_one_by_one_end_a_round():
    group = members(given=spec("demo"))
    here = order(1, steps=2)
    for step in range(2):
        for member in group:
            gradient = np.random.default_rng([member.slot, step]).normal(size=INITIAL.size).astype(np.float32)
            member.contribute(gradient, here, step=step, rate=0.01)
        results = gather(group)
        after = []
        for member in group:
            member.merge(results)
            after.append(member.step_result())
        assert all(np.array_equal(one, after[0]) for one in after)
    digests = {member.finish(member.parameters, here).digest for member in group}
    assert len(digests) == 1
    group[0].commit(digests.pop())
    assert (group[0].round, group[0].step) == (1, 2)


@pytest.mark.parametrize("way", ["gather", "butterfly"])
@pytest.mark.parametrize("options", [{}, {"codec": "int8", "error_feedback": True}], ids=["whole", "int8"])
def test_a_gradient_merged_into_the_callers_room_is_the_same_to_the_bit(way, options):
    apart, inside = (members(given=spec("ddp", **options)) for _ in range(2))
    room = np.empty_like(INITIAL)
    for step in range(3):
        for group, where in ((apart, None), (inside, room)):
            for member in group:
                gradient = np.random.default_rng([member.slot, step]).normal(size=INITIAL.size).astype(np.float32)
                member.contribute(gradient, order(1, steps=3), step=step, rate=0.01, room=where)
            results = gather(group) if way == "gather" else butterfly(group, (0, 1, 4))
            for member in group:
                member.merge(results)
        expected = apart[0].step_result()
        for member in inside:
            assert member.step_result() is room
            assert room.tobytes() == expected.tobytes()
        for member in apart[1:]:
            member.step_result()


def test_a_gradient_that_loses_nothing_is_sent_from_where_it_lies():
    [member] = members((0,), given=spec("ddp"))
    gradient = np.random.default_rng(1).normal(size=INITIAL.size).astype(np.float32)
    member.contribute(gradient, order(1, (0,), steps=1), step=0, rate=0.01)
    payload = member.payload()
    assert np.shares_memory(np.frombuffer(payload[-1], dtype=np.float32), gradient)
    found = unpack_contribution(whole(payload), round=1, step=0, slot=0)
    assert bytes(found.body[-gradient.nbytes :]) == gradient.tobytes()
    assert member.sent_digest() == hashlib.sha256(whole(payload)).hexdigest()


def test_a_mean_gradient_is_handed_on_and_the_round_ends_where_the_optimiser_stepped():
    group = members(given=spec("ddp"))
    here = order(1, steps=1)
    for member in group:
        member.contribute(np.full(INITIAL.size, member.slot, dtype=np.float32), here, step=0, rate=0.01)
    results = gather(group)
    for member in group:
        member.merge(results)
        assert np.allclose(member.step_result(), 5 / 3)
    stepped = INITIAL - np.float32(0.1)
    assert group[0].finish(stepped, here).digest == group[1].finish(stepped, here).digest
    assert set(group[0].state) == {"parameters"} | ({"gradient"} & set(group[0].state))


@pytest.mark.parametrize("after", ["ddp", "local_sgd", "noloco", "demo", "sparseloco", "streaming_diloco"])
def test_a_switch_keeps_parameters_and_place(after):
    group = members()
    whole_round(group)
    digest = group[0].digest()
    for member in group:
        member.switch(strategy_options({"name": after, "inner_steps": 20}))
    assert {member.digest() for member in group} == {digest}
    assert group[0].round == 1
    assert group[0].bundle is None, "no delta continues a base of another strategy"


@given(cut=st.integers(0, 400), flip=st.integers(0, 400), value=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_damaged_bundles_and_slices_are_refused_or_say_the_same(cut, flip, value):
    bundle = Bundle(3, 20, 30, "gather", (0, 4), 90, {0: b"abc" * 30, 4: b"defg" * 10})
    content = bytearray(bundle.pack())
    assert unpack_bundle(content) == bundle
    content[flip % len(content)] ^= value
    for read in (
        lambda data: unpack_bundle(data),
        lambda data: unpack_reduced(data, round=1, step=0),
        lambda data: unpack_contribution(data, round=1, step=0, slot=0),
        lambda data: Member.restore(bytes(data)),
    ):
        for damaged in (bytes(content), bytes(content[:cut])):
            with contextlib.suppress(BadPayload, MemberError):
                read(damaged)


@pytest.mark.parametrize("own", [True, False])
def test_what_was_a_peers_own_is_taken_over_only_when_that_is_asked_for(own):
    peer, heir = (Member(spec(error_feedback=True), LAYOUT, INITIAL, slot=slot) for slot in (1, 2))
    whole_round([peer])
    heir.take_over(peer.export(own=True), own=own)
    assert ("residual" in heir.state) == own
    assert not own or np.array_equal(heir.state["residual"], peer.state["residual"])
    assert heir.digest() == peer.digest()
    heir.take_over(members()[0].export(own=True), own=True)
    assert "residual" not in heir.state, "the peer owed nothing"


def test_an_own_vector_of_another_size_is_refused():
    peer, heir = members()[:2]
    whole_round([peer])
    peer._state = {**peer.state, "residual": np.ones(7, dtype=np.float32)}
    with pytest.raises(MemberError, match="another size"):
        heir.take_over(peer.export(own=True), own=True)


@pytest.mark.parametrize("change", ["truncated", "another length", "not finite", "no json"])
def test_an_export_that_is_none_is_refused(change):
    member = members()[0]
    exported = member.export()
    bad = {
        "truncated": exported[:-4],
        "another length": exported + b"\0\0\0\0",
        "not finite": exported[:-4] + np.float32(np.nan).tobytes(),
        "no json": b"\x08" + bytes(7) + b"{broken}" + exported,
    }[change]
    with pytest.raises(MemberError):
        member.take_over(bad)
    assert member.export() == exported
