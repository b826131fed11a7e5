"""Every strategy in a whole simulated job: the members' production code, real inner loops, people coming and going."""

import pytest
import torch

from tests.trainers.tiny_lm import TinyLM
from trainers.simulation import Script, SimulatedRound, Simulation, simulate
from trainers.strategies import STRATEGIES

NAMES = sorted(STRATEGIES)


def workload() -> TinyLM:
    torch.set_num_threads(1)
    return TinyLM({"lr": 0.01, "width": 64}, None, 1)


def of(name: str, **more: object) -> dict[str, object]:
    overlap = {"fragments": 2, "overlap_steps": 1} if name == "streaming_diloco" else {}
    return {"name": name, "inner_steps": 4, **overlap, **more}


def run(script: Script, rounds: int) -> list[SimulatedRound]:
    job = Simulation(workload, script, steps=100, seed=1)
    return [job.advance(evaluate=False) for _ in range(rounds)]


@pytest.mark.parametrize("name", NAMES)
def test_members_come_and_go_agree_and_the_job_can_be_repeated_to_the_bit(name):
    script = Script({1: (0, 1, 2), 2: (0, 2), 3: (0, 2, 7)}, {1: of(name)})
    told = run(script, 4)
    assert [made.slots for made in told] == [(0, 1, 2), (0, 2), (0, 2, 7), (0, 2, 7)]
    alike = 1 if name != "noloco" else 3
    assert all(len(set(made.digests.values())) <= alike for made in told)
    assert told == run(script, 4)
    assert all(made.sent_bytes[slot] > 0 for made in told[:2] for slot in made.slots) or name == "noloco"


@pytest.mark.parametrize("after", NAMES)
def test_a_running_job_goes_on_with_another_strategy(after):
    told = run(Script({1: (0, 1)}, {1: of("noloco"), 2: of(after), 3: of("diloco")}), 3)
    assert len(set(told[-1].digests.values())) == 1


def test_late_work_is_caught_up_with():
    late = Script({1: (0, 1, 2)}, {1: of("diloco", codec="identity")}, late={2: (1,)})
    told = run(late, 3)
    assert all(len(set(made.digests.values())) == 1 for made in told)
    assert told[1].sent_bytes[1] == 0


@pytest.mark.parametrize("topology", ["butterfly", "star"])
def test_slices_merge_to_nearly_the_same_as_whole_contributions(topology):
    whole, sliced = (
        simulate(workload, of("diloco", codec="identity", topology=way), steps=8, seed=1, workers=3)[-1]
        for way in ("gather", topology)
    )
    assert len(set(sliced.digests.values())) == 1
    assert sliced.held_out == pytest.approx(whole.held_out, rel=1e-4)
    assert sum(sliced.sent_bytes.values()) < sum(whole.sent_bytes.values())


def test_a_failing_step_ends_the_job_and_nobody_waits_for_ever():
    class Broken(TinyLM):
        def loss(self, model, batch):
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        Simulation(
            lambda: Broken({"lr": 0.01}, None, 1), Script({1: (0, 1)}, {1: of("ddp")}), steps=8, seed=1
        ).advance()
