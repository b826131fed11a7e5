"""Whole jobs in which a worker says what is not true: bad contributions, other states, answers without form."""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests.trainers.ring import ring
from tests.trainers.ring_jobs import ELEMENTS, LAYOUT, STRATEGIES, is_done, spec_of, strategy_of
from tests.trainers.ring_machines import hold
from trainers.actors.meeting import Meeting
from trainers.child_process import InnerStateRefused
from trainers.codecs.base import LARGEST
from trainers.contributions import CONTRIBUTION
from trainers.member import Member


def poison(value: float) -> Callable[[bytes], bytes]:
    """A contribution whose first element is not finite (identity codec)."""

    def forge(payload: bytes) -> bytes:
        return payload[:-4] + struct.pack("<f", value)

    return forge


def other(field: int, change: int) -> Callable[[bytes], bytes]:
    """A contribution with another round, step or slot."""

    def forge(payload: bytes) -> bytes:
        fields = list(CONTRIBUTION.unpack_from(payload))
        fields[field] += change
        return CONTRIBUTION.pack(*fields) + payload[CONTRIBUTION.size :]

    return forge


HUGE = poison(3e38)
BEYOND = poison(float(np.nextafter(LARGEST, np.float32(np.inf))))
"""Finite: three of these have no sum."""

FORGERIES = {
    "nan": poison(float("nan")), "infinite": poison(float("inf")), "huge": HUGE, "beyond what may be": BEYOND,
    "another kind": lambda payload: b"TR" + payload[2:], "another round": other(1, 1),
    "another step": other(2, 1), "another slot": other(4, 1), "truncated": lambda payload: payload[:-1],
    "empty": lambda payload: b"", "random": lambda payload: np.random.default_rng(5).bytes(len(payload)),
    "random body": lambda payload: payload[: CONTRIBUTION.size] + b"\xff" * (len(payload) - CONTRIBUTION.size),
    "no weight": lambda payload: payload[:20] + struct.pack("<d", 0.0) + payload[28:],
    "more weight than it has": lambda payload: payload[:20] + struct.pack("<d", 1e9) + payload[28:],
}  # fmt: skip


@pytest.mark.parametrize("what", FORGERIES)
def test_a_bad_contribution_is_refused_and_warned_of_and_the_second_costs_the_place(what):
    with ring(spec_of(strategy_of("diloco", codec="identity", topology="gather"), rounds=8)) as job:
        job.seats[1].forge.update({3: FORGERIES[what], 5: FORGERIES[what]})
        assert is_done(job.run())
        job.check()
        assert [one["slot"] for one in job.door.rounds[2]["warned"]] == [1]
        assert job.contributors()[2] == [0, 2]
        assert job.contributors()[3] == [0, 1, 2]
        assert [slot for slot, _ in job.lost()] == [1]
        assert job.contributors()[5:] == [[0, 2]] * 3


EXACT = {
    "ddp in slices": strategy_of("ddp", topology="butterfly"), "ddp whole": strategy_of("ddp", topology="gather"),
    "local_sgd": strategy_of("local_sgd", codec="identity"),
    "diloco by a star": strategy_of("diloco", codec="identity", topology="star"),
    "streaming_diloco": strategy_of("streaming_diloco", codec="identity"),
    "noloco": strategy_of("noloco", codec="identity", slow_codec="identity"), "demo": strategy_of("demo", codec="identity"),
    "distro": strategy_of("distro", codec="identity"), "sparseloco": strategy_of("sparseloco", codec="top_k:64/4096+identity"),
}  # fmt: skip


@pytest.mark.parametrize("what", EXACT)
def test_who_sends_numbers_so_large_that_the_sum_would_overflow_is_found_and_costs_nobody_else_anything(what):
    with ring(spec_of(EXACT[what], rounds=7)) as job:
        job.seats[1].forge.update({2: HUGE, 4: HUGE})
        assert is_done(job.run())
        job.check(agree=what != "noloco")
        assert job.numbers() == [1, 2, 3, 4, 5, 6, 7]
        named = [one for number in (2, 4) for one in job.warned(number)]
        if what != "noloco":  # who is alone in a round shows it to nobody
            assert [one["slot"] for one in named] == [1, 1]
            assert job.lost() == [(1, "bad_contribution")]
            assert job.contributors() == [[0, 1, 2], [0, 2], [0, 1, 2], [0, 2], [0, 2], [0, 2], [0, 2]]
        assert {one["slot"] for one in named} <= {1}
        assert all("3e+38 counts as not finite: at most 2^60 is allowed" in one["reason"] for one in named)
        assert np.abs(job.seats[0].training.member.parameters).max() < 10.0


BAD_MEANS = {
    "huge": HUGE, "nan": poison(float("nan")), "empty": lambda mean: b"", "truncated": lambda mean: mean[:-1],
    "another kind": lambda mean: b"TC" + mean[2:], "random": lambda mean: np.random.default_rng(6).bytes(len(mean)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_MEANS)
@pytest.mark.parametrize("way", ["diloco-butterfly", "diloco-star", "ddp-butterfly"])
def test_who_makes_a_bad_slice_of_the_mean_is_found_and_all_others_go_on_alike(way, what):
    name, topology = way.split("-")
    with ring(spec_of(strategy_of(name, codec="identity", topology=topology), rounds=7)) as job:
        job.seats[0].forge_mean.update({2: BAD_MEANS[what], 4: BAD_MEANS[what]})
        assert is_done(job.run())
        job.check()
        assert job.numbers() == [1, 2, 3, 4, 5, 6, 7]
        named = [one for number in (2, 4) for one in job.warned(number)]
        assert [one["slot"] for one in named] == [0, 0]
        assert all("it made a bad slice of the mean" in one["reason"] for one in named)
        assert job.lost() == [(0, "bad_contribution")]
        assert job.contributors() == [[0, 1, 2], [1, 2], [0, 1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]


@pytest.mark.parametrize("name", ["streaming_diloco", "noloco", "demo", "sparseloco"])
def test_random_bytes_for_a_contribution_hurt_nobody_else(name):
    with ring(spec_of(STRATEGIES[name], rounds=4)) as job:
        job.seats[1].forge[2] = lambda payload: np.random.default_rng(len(payload)).bytes(len(payload))
        assert is_done(job.run())
        assert not job.bugs
        assert not {0, 2} & {slot for slot, _ in job.lost()}
        assert len(job.door.rounds) == 4


@pytest.mark.parametrize("topology", ["butterfly", "star", "gather"])
def test_the_odd_one_out_is_named_resynchronised_once_then_dropped(topology):
    with ring(spec_of(strategy_of("diloco", topology=topology), rounds=8)) as job:

        def flip(results: dict[int, bytes]) -> dict[int, bytes]:
            key = min(results)
            return {**results, key: results[key][:-1] + bytes([results[key][-1] ^ 1])}

        job.seats[1].spoil.update({3: flip, 6: flip})
        assert is_done(job.run())
        job.check()
        assert [(one["slot"], "differ" in one["reason"]) for one in job.door.rounds[2]["warned"]] == [(1, True)]
        assert job.contributors()[3] == [0, 1, 2]
        assert job.lost() == [(1, "stale")]


def test_one_liar_alone_cannot_cost_others_their_places():
    with ring(spec_of(STRATEGIES["diloco"], rounds=6)) as job:
        accused = {"0": "not all elements are finite", "1": "not all elements are finite"}
        job.lies[2, "merge"] = lambda answer: {**answer, "refused": accused} if "refused" in answer else answer
        assert is_done(job.run())
        assert not {0, 1} & {slot for slot, _ in job.lost()}
        assert len(job.door.rounds) == 6


def test_one_that_complains_about_all_others_costs_none_of_them_the_place():
    with ring(spec_of(STRATEGIES["diloco"], rounds=6)) as job:
        gate = threading.Event()
        job.lies[2, "reading"] = lambda answer: {**answer, "unreachable": [0, 1], "moved_bytes": 0}
        for slot in (0, 1):
            job.at(slot, 3, "exchange", hold(gate))
        turns = []
        job.once(lambda: len(turns) > 40 or turns.append(1), gate.set)  # type: ignore[func-returns-value]
        assert is_done(job.run())
        assert not {0, 1} & {slot for slot, _ in job.lost()}


def without(name: str) -> Callable[[dict], dict]:
    """The answer without one of its fields."""
    return lambda answer: {field: value for field, value in answer.items() if field != name}


MALFORMED = {
    "no fields": ("train", lambda answer: ["ok"]),
    "no verdict": ("train", without("ok")),
    "no round": ("train", without("round")),
    "a loss that is none": ("train", lambda answer: {**answer, "loss": float("nan")}),
    "accepted by nobody known": ("merge", lambda answer: {**answer, "accepted": "all", "left": False}),
    "refused for no slot": ("merge", lambda answer: {**answer, "refused": {"first": "no"}, "left": False}),
    "an unknown failure": ("train", lambda answer: {"ok": False, "kind": "tired", "message": "", "traceback": ""}),
    "a reading of nothing": ("reading", lambda answer: {}),
    "no address": ("connect", lambda answer: {"ok": True}),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_an_answer_that_is_none_costs_its_worker_the_place_and_nobody_else_anything(what):
    method, change = MALFORMED[what]
    with ring(spec_of(STRATEGIES["diloco"], rounds=4)) as job:
        job.lies[2, method] = change
        if method in {"connect", "reading"}:  # which may come before the first round, that waits for three
            job.once(lambda: bool(job.lost()), lambda: job.join(3))
        assert is_done(job.run())
        job.check()
        assert job.lost() == [(2, "bad_contribution")]
        assert "its answer to " + method in job.door.lost[0]["detail"]
        assert job.numbers() == [1, 2, 3, 4]


CLAIMS = {
    "far ahead": {"round": 900, "step": 2700, "position": 8100},
    "the end": {"round": 6, "step": 18, "position": 54},
    "one more": {"round": 4, "step": 12, "position": 36},
    "another step": {"step": 17},
    "no number": {"round": "3"},
}


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("what", CLAIMS)
def test_one_that_lies_about_where_it_stands_does_not_move_the_job_when_its_run_is_replaced(what, every):
    with ring(spec_of(STRATEGIES["diloco"], rounds=6, every=every)) as job:
        gate = threading.Event()
        for slot in (0, 1, 2):
            job.at(slot, 4, "training", hold(gate))
        job.lies[2, "state"] = lambda answer: {**answer, **CLAIMS[what]}
        job.once(lambda: len(job.door.rounds) == 3 and len(job.fired) == 3, lambda: (job.replace_course(), gate.set()))
        assert is_done(job.run())
        assert not job.bugs
        assert job.numbers() == [1, 2, 3, 4, 5, 6]
        assert [report["step"] for report in job.door.rounds] == [3, 6, 9, 12, 15, 18]
        assert job.lost() == ([(2, "stale")] if what in ("far ahead", "the end", "no number") else [])
        assert {0, 1} <= set(job.contributors()[-1])


SET_ASIDE = {
    "of another round": lambda answer: {**answer, "round": answer["round"] + 1},
    "of other parameters": lambda answer: {**answer, "digest": "0" * 64},
    "of no kind": lambda answer: {**answer, "kind": "all"},
    "of no model": without("tensors"),
    "of tensors without a shape": lambda answer: {**answer, "tensors": [{"name": "a", "shape": "3", "dtype": "f"}]},
    "without a verdict": without("ok"),
}


@pytest.mark.parametrize("what", SET_ASIDE)
def test_who_says_that_it_set_aside_what_cannot_be_loses_its_place_and_another_one_does_it(what):
    with ring(spec_of(STRATEGIES["diloco"], rounds=6)) as job:
        job.lies[0, "snapshot"] = SET_ASIDE[what]
        assert is_done(job.run())
        job.check()
        assert job.lost() == [(0, "bad_contribution")]
        assert "snapshot" in job.door.lost[0]["detail"] or "set aside" in job.door.lost[0]["detail"]
        assert job.door.checkpoints[-1]["round"] == 6


@pytest.mark.parametrize("what", ["no state", "the state of the start"])
def test_a_base_that_is_not_what_was_agreed_on_never_becomes_durable(what):
    spec = spec_of(STRATEGIES["diloco"], rounds=8)
    fresh = Member(spec, LAYOUT, np.zeros(ELEMENTS, dtype=np.float32)).export()
    with ring(spec) as job:
        worker = job.seats[0].worker
        real = worker.staged
        forged = b"no state" if what == "no state" else fresh
        worker.staged = lambda round, kind: forged if kind == "base" else real(round, kind)
        assert is_done(job.run())
        job.check()
        assert job.lost() == [(0, "bad_contribution")]
        assert "not what was agreed on" in job.door.lost[0]["detail"]
        assert job.door.checkpoints[-1]["round"] == 8
        assert forged not in job.door.blobs.values()


def test_moments_of_a_donor_that_are_none_cost_the_joiner_a_round_and_the_job_nothing():
    with ring(spec_of(STRATEGIES["ddp"], rounds=12)) as job:
        refusals = []

        def arrives() -> None:
            job.join(3)
            child = job.seats[3].child
            real = child.import_inner

            def import_inner(exported: bytes) -> None:
                if not refusals:
                    refusals.append(len(exported))
                    raise InnerStateRefused("no safetensors file")
                real(exported)

            child.import_inner = import_inner

        job.once(job.reported(2), arrives)
        assert is_done(job.run())
        job.check()
        assert refusals
        assert job.lost() == []
        assert job.contributors()[-1] == [0, 1, 2, 3]


def test_who_lets_bytes_drip_does_not_hold_up_a_round(monkeypatch):
    moved, dripped, over = Meeting.moved_bytes.fget, itertools.count(step=10), threading.Event()
    monkeypatch.setattr(Meeting, "moved_bytes", property(lambda meeting: moved(meeting) + next(dripped)))
    with ring(spec_of(STRATEGIES["diloco"], rounds=5), exchange_ms=1000, complain_after_s=0.15) as job:
        job.at(1, 3, "exchange", hold(over))
        assert is_done(job.run())
        assert job.fired == [(1, 3, "exchange")]
        assert job.lost() == [(1, "network_cut")]
        over.set()
