"""The pure parts of `benchmarks.renting`: what is run, what is kept, what is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.frontier import effort_to, round_seconds, undominated
from benchmarks.learnt import Learnt, NotKept, append, load
from benchmarks.ratios import at_best_rates, steps_ratios
from benchmarks.renting import Task, alone, arguments, figures, simulate, together
from benchmarks.trials import Job
from market.traffic import FRAMING

DATA = "0123456789abcdef"


def ended(
    strategy: str, steps: int, held_out: float | None, workers: int = 1, seed: int = 1, lr: float = 0.002
) -> Learnt:
    """A job with rounds of 10 steps and 1,000 bytes."""
    job = Job(steps=steps, inner_steps=10, workers=workers, seed=seed, lr=lr, link="none")
    return Learnt(strategy, job, {"name": strategy, "inner_steps": 10}, DATA, held_out, 1000.0)


def test_effort_between_two_lengths_is_exponential_in_the_loss() -> None:
    points = [(400.0, 2.0), (100.0, 3.0)]
    assert effort_to(points, 2.5) == pytest.approx(200)
    assert [effort_to(points, loss) for loss in (3.0, 2.0)] == pytest.approx([100, 400])
    assert [effort_to(points, loss) for loss in (3.01, 1.99)] == [None, None], "nothing outside"
    assert effort_to([(100.0, 3.0)], 3.0) == 100
    assert effort_to([], 3.0) is None


def test_an_exchange_takes_what_the_link_leaves_and_hides_behind_overlapping_steps() -> None:
    each_round = {"name": "diloco", "inner_steps": 10}
    assert round_seconds(each_round, 1e6, 0.5, None) == 5
    assert round_seconds(each_round, 1e6, 0.5, 8_000_000) == pytest.approx(5 + FRAMING)
    streaming = {"name": "streaming_diloco", "inner_steps": 10, "fragments": 2, "overlap_steps": 2}
    assert round_seconds(streaming, 1e6, 0.5, 8_000_000) == pytest.approx(2.5 + FRAMING - 1)
    assert round_seconds(streaming, 1e5, 0.5, 8_000_000) == pytest.approx(2.5), "wholly hidden"


def test_the_frontier_holds_what_nothing_beats() -> None:
    costs = {"alone": (1.0, 1.0), "both": (0.5, 1.0), "dear": (0.4, 1.6), "worse": (0.6, 1.2), "as dear": (0.45, 1.6)}
    assert undominated(costs) == ["dear", "both"]
    assert undominated({"alone": (1.0, 1.0), "slow": (1.2, 2.4)}) == ["alone"]


def test_everybody_is_at_its_best_rate_by_the_mean_over_seeds() -> None:
    runs = [
        ended("diloco", 100, loss, 2, seed, lr)
        for lr, losses in {0.002: (2.5, 2.5), 0.004: (2.2, 2.9), 0.008: (2.0, None)}.items()
        for seed, loss in enumerate(losses, start=1)
    ]
    longer = [ended("diloco", 200, 2.3, 2, seed, 0.004) for seed in (1, 2)]
    best = at_best_rates([*runs, *longer])
    assert [(one.job.steps, one.job.lr, one.job.seed) for one in best] == [
        (100, 0.002, 1), (100, 0.002, 2), (200, 0.004, 1), (200, 0.004, 2),
    ]  # fmt: skip
    assert at_best_rates([ended("diloco", 100, None, 2)]) == [], "what diverged everywhere is left out"


def test_steps_are_counted_against_the_lone_machine_of_the_same_seed() -> None:
    lone = [ended("ddp", 200, 2.5, seed=1), ended("ddp", 200, 2.0, seed=2)]
    ours = [ended("diloco", steps, loss, 2, seed) for steps, loss in ((100, 3.0), (400, 2.0)) for seed in (1, 2)]
    assert steps_ratios(ours, lone) == pytest.approx([1.0, 2.0])
    assert steps_ratios(ours, [*lone, ended("ddp", 200, 1.9, seed=2)]) is None, "a loss that was not reached"


def test_figures_are_ratios_to_the_lone_machine_by_link() -> None:
    lone = [ended("ddp", 200, 2.5, seed=seed, lr=lr) for seed in (1, 2) for lr in (0.002, 0.004)]
    lone = [replace(one, held_out=9.0) if one.job.lr == 0.004 else one for one in lone]
    ours = [
        ended("diloco", steps, loss, 2, seed)
        for steps, losses in {50: (3.0, 3.0), 200: (2.0, 2.25)}.items()
        for seed, loss in enumerate(losses, start=1)
    ]
    never = [ended("noloco", 50, 3.0, 2, seed) for seed in (1, 2)]
    found, frontiers, missed = figures(lone, [*ours, *never], ["none", "80kbit"], {6: 0.01})
    low, high = 100 / 200, 50 * 4 ** (2 / 3) / 200
    assert found["diloco.2.b6.h10.steps_ratio_low"] == pytest.approx(low)
    assert found["diloco.2.b6.h10.steps_ratio_high"] == pytest.approx(high)
    steps = found["diloco.2.b6.h10.steps_ratio"]
    assert steps == pytest.approx((low + high) / 2) == found["diloco.2.b6.h10.none.hours_ratio"]
    assert found["diloco.2.b6.h10.none.dollars_ratio"] == pytest.approx(2 * steps)
    slower = (0.1 + FRAMING * 0.1) / 0.1
    assert found["diloco.2.b6.h10.80kbit.hours_ratio"] == pytest.approx(steps * slower)
    assert (found["alone.b6.held_out"], found["alone.b6.lr"]) == (2.5, 0.002)
    assert {one["link"]: [best["what"] for best in one["frontier"]] for one in frontiers} == {
        "none": ["diloco.2.b6.h10", "alone"], "80kbit": ["alone"],
    }  # fmt: skip
    assert missed == [{"what": "noloco.2.b6.h10", "ends": [3.0], "wanted": [2.5]}]


def asked(line: str) -> tuple[list[Task], list[Task]]:
    chosen = arguments().parse_args(line.split())
    return list(alone(chosen)), list(together(chosen))


def test_every_batch_has_its_lone_machine_and_every_rate_is_tried_by_all() -> None:
    lone, others = asked(
        "--steps 100 --shares 0.5 1 --batch 6 24 --rates 0.001 0.002 --inner-steps 10 20 --workers 2 "
        "--strategy ddp diloco --seeds 2 --set diloco.outer_lr=0.9 --set codec=fp4"
    )
    assert {(job.batch, job.lr, job.seed, job.steps, job.workers) for _, job, _ in lone} == {
        (batch, lr, seed, 100, 1) for batch in (6, 24) for lr in (0.001, 0.002) for seed in (1, 2)
    }
    assert {options["codec"] for _, _, options in lone} == {"identity"}, "alone there is nothing to encode"
    assert len(others) == 2 * 2 * 2 * 2 * (1 + 2), "ddp has one length of rounds, for it learns the same with any"
    assert {job.inner_steps for strategy, job, _ in others if strategy == "ddp"} == {20}
    assert {options["outer_lr"] for strategy, _, options in others if strategy == "diloco"} == {0.9}
    assert all(job.steps % job.inner_steps == 0 for _, job, _ in others)
    with pytest.raises(ValueError, match="diloko"):
        asked("--set codec=diloko")


class Runner:
    """Ends every task with the loss 2, up to `limit` of them, and remembers which."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit, self.ran = limit, []

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Learnt]:
        for strategy, job, options in tasks[: self.limit]:
            self.ran.append((strategy, job, options))
            yield Learnt(strategy, job, options, DATA, 2.0, 10.0)
        if len(tasks) > self.limit:
            raise KeyboardInterrupt


def test_a_study_that_was_ended_goes_on_where_it_was_and_may_be_widened(tmp_path: Path) -> None:
    keep = tmp_path / "study.jsonl"
    lone, others = asked("--steps 90 --strategy diloco")
    tasks = [*lone, *others]
    first, second, third = Runner(limit=3), Runner(), Runner()
    with pytest.raises(KeyboardInterrupt):
        simulate(tasks, DATA, keep, first, quiet=True)
    found = simulate(tasks, DATA, keep, second, quiet=True)
    assert [(one.strategy, one.job, one.set) for one in found] == tasks
    assert [*first.ran, *second.ran] == tasks, "each once"
    wider = [*lone, *asked("--steps 90 --strategy diloco noloco")[1]]
    assert len(simulate(wider, DATA, keep, third, quiet=True)) == len(wider)
    assert {strategy for strategy, _, _ in third.ran} == {"noloco"}


def test_what_differs_in_anything_is_another_job(tmp_path: Path) -> None:
    one = ended("diloco", 100, 2.0, 2)
    others = [
        replace(one, strategy="noloco"), replace(one, data="another"), replace(one, set={**one.set, "codec": "fp4"}),
        *(replace(one, job=replace(one.job, **{name: 7})) for name in ("batch", "lr", "steps", "seed", "workers", "context")),
    ]  # fmt: skip
    assert len({other.key for other in [one, *others]}) == len(others) + 1
    assert replace(one, held_out=None).key == one.key


def test_a_line_cut_off_by_a_kill_is_no_line_and_the_next_stands_alone(tmp_path: Path) -> None:
    keep = tmp_path / "study.jsonl"
    assert load(keep) == {}
    first, second = ended("ddp", 100, 2.5), ended("diloco", 100, None, 2)
    append(keep, first)
    whole = keep.read_bytes()
    for cut in range(1, len(whole)):
        keep.write_bytes(whole + whole[:cut])
        assert list(load(keep).values()) == [first]
    append(keep, second)
    assert list(load(keep).values()) == [first, second]
    assert all(json.loads(line) for line in keep.read_text().splitlines())
    keep.write_bytes(whole[:-1])
    assert load(keep) == {}, "torn in its very first line"
    append(keep, second)
    assert list(load(keep).values()) == [second]


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"job": {"wings": 2}}', ""])
def test_a_file_of_something_else_is_refused_and_not_added_to(tmp_path: Path, line: str) -> None:
    keep = tmp_path / "study.jsonl"
    append(keep, ended("ddp", 100, 2.5))
    with keep.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(NotKept, match="line 2"):
        load(keep)
    before = keep.read_bytes()
    with pytest.raises(NotKept):
        simulate(asked("--steps 90")[0], DATA, keep, Runner(), quiet=True)
    assert keep.read_bytes() == before
