"""A schedule of inner steps: the rounds of a job follow from its options and the step alone, whoever asks and whenever."""

import hashlib
import json
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.ring import Ring, ring
from tests.trainers.ring_jobs import is_done, spec_of, strategy_of
from tests.trainers.ring_machines import hold
from tests.trainers.test_going_back import dispute
from trainers.options import STRATEGIES, strategy_options
from trainers.round_lengths import lengths_said, round_lengths
from trainers.simulation import Script, simulate
from trainers.workloads.digits import Digits

BEFORE = "08053c728b70e45ed02339ded701bd0618b4f9942cf5037fa6b6b95542062d33"
"""Of all strategies' default options before there were schedules."""
SCHEDULED = [name for name in sorted(STRATEGIES) if "inner_steps_later" in STRATEGIES[name]]
SCHEDULE = strategy_of("diloco", inner_steps_later=5, later_from=0.5)


@given(
    st.integers(1, 200), st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 0.99), st.sampled_from(SCHEDULED)
)
def test_rounds_are_counted_as_they_are_made(total: int, steps: int, later: int, share: float, name: str) -> None:
    options = {"name": name, "inner_steps": steps, "inner_steps_later": later, "later_from": share}
    lengths, starts = round_lengths(options, total), [0]
    while starts[-1] < total:
        starts.append(lengths.end_of(starts[-1]))
    made = [end - start for start, end in pairwise(starts)]
    turn = round(share * total)
    wanted = [min(steps if start < turn else later, total - start) for start in starts[:-1]]
    assert made == wanted
    assert starts[-1] == total
    assert [lengths.rounds_from(start) for start in starts] == list(range(len(made), -1, -1))


def test_without_a_schedule_options_are_to_the_byte_what_they_were() -> None:
    all_defaults = [strategy_options({"name": name}) for name in sorted(STRATEGIES)]
    assert hashlib.sha256(json.dumps(all_defaults, sort_keys=True).encode()).hexdigest() == BEFORE
    for name in SCHEDULED:
        absent = {"name": name, "inner_steps_later": None, "later_from": None}
        assert json.dumps(strategy_options(absent)) == json.dumps(strategy_options({"name": name}))


def test_a_schedule_is_among_the_options_that_are_committed_to() -> None:
    whole = strategy_options(SCHEDULE)
    assert (whole["inner_steps"], whole["inner_steps_later"], whole["later_from"]) == (3, 5, 0.5)
    assert strategy_options(whole) == whole


def test_it_is_said_for_people() -> None:
    assert lengths_said({"inner_steps": 30}, 600) == "30 steps"
    later = {"inner_steps": 3, "inner_steps_later": 7, "later_from": 0.55}
    assert lengths_said(later, 600) == "3 steps, 7 from step 330 on"
    assert lengths_said(later, None) == "3 steps, 7 from 0.55 of its steps on"


def test_a_schedule_trains_to_the_bit_as_a_job_that_is_retuned_there() -> None:
    def workload() -> Digits:
        return Digits({"model": "mlp"}, None, seed=1)

    strategy = {"name": "diloco", "inner_steps": 2, "codec": "sign1", "error_feedback": True, "keep_unsent": True}
    scheduled = strategy_options(strategy | {"inner_steps_later": 3, "later_from": 0.5})
    script = Script({1: range(2)}, {1: strategy, 4: strategy | {"inner_steps": 3}})
    retuned = simulate(workload, strategy, steps=12, seed=1, script=script)
    found = simulate(workload, scheduled, steps=12, seed=1, workers=2)
    assert [one.step for one in found] == [2, 4, 6, 9, 12]
    assert [one.digests for one in found] == [one.digests for one in retuned]


def ends_of(job: Ring) -> dict[int, int]:
    """The step that each reported round ended at, as it was reported last."""
    return {report["round"]: report["step"] for report in job.door.rounds}


def replaced_at(job: Ring, number: int) -> None:
    """The run is replaced in the middle of that round."""
    gate = threading.Event()
    job.at(1, number, "training", hold(gate))
    job.once(job.is_fired(1, number, "training"), lambda: (job.replace_course(), gate.set()))


@pytest.mark.parametrize(
    "disturb",
    [
        lambda job: dispute(job, (1,), 5),
        lambda job: dispute(job, (1,), 6),
        lambda job: dispute(job, (1,), 7),
        lambda job: replaced_at(job, 5),
        lambda job: replaced_at(job, 6),
    ],
    ids=["rewound before", "rewound at", "rewound after", "resumed before", "resumed at"],
)
def test_whoever_goes_back_across_the_turn_makes_the_same_rounds_again(disturb) -> None:
    outcomes = []
    for disturbs in (lambda _: None, disturb):
        with ring(spec_of(SCHEDULE, steps=30, members=2, every=4), slots=(0, 1)) as job:
            disturbs(job)
            assert is_done(job.run())
            assert not job.bugs
            assert job.lost() == []
            outcomes.append((ends_of(job), job.door.rounds[-1]["digest"]))
    assert outcomes[0][0] == {1: 3, 2: 6, 3: 9, 4: 12, 5: 15, 6: 20, 7: 25, 8: 30}
    assert outcomes[0] == outcomes[1]
