"""What finished jobs have shown: how long the same work took on which hardware, and how well estimates came true. Pure.

Kept in the state, changed by the reducer alone, when a job is done; so a replay of the journal knows the same. The same
work is: of a job that trains its workload, options, strategy, section `train` and units a worker (a customer's own code
by its digest and class, and for this customer only); of a batch job its command, working folder's name and units, for this
customer only. Data, seed, steps and numbers of workers may differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from market.outcomes import Json
from storage.canonical import digest_of
from storage.values import value

RUNS_OF_ONE: Final = 16
WORKS: Final = 4_096
SCORES: Final = 64
"""Only the newest are kept."""
CLAIMED: Final = 0.8
"""Share of jobs that a range is meant to hold."""
SCORES_TO_JUDGE: Final = 5
WIDEST: Final = 10.0


@value
class Run:
    """One job that was done in one go. A job of S steps in R rounds on such workers takes other + R · round + S · step.

    Args:
        flops_per_second: of one unit of its slowest offer as measured, None where nothing was.
        step_ms: an inner step's training; of a batch job all of its tries. round_ms: what a round took beside its steps.
        other_ms: before the first round and after the last one.
        charged: what was charged for, as a share of the whole time of each worker.
    """

    job: str
    gpu: str
    workers: int
    flops_per_second: float | None
    step_ms: float
    round_ms: float
    other_ms: float
    charged: float

    def takes_ms(self, steps: int, rounds: int, slower: float = 1.0) -> float:
        """Such a job on hardware that needs `slower` times as long for a step."""
        return max(1.0, self.other_ms + rounds * self.round_ms + steps * self.step_ms * slower)


@value
class Score:
    """How one estimate came true. `error`: |ln(took ÷ middle)|. `half`: half the range's width in logarithms before it was
    widened for earlier misses. `within`: whether time and cost both fell within what was said."""

    job: str
    within: bool
    error: float
    half: float


@dataclass(slots=True)
class Experience:
    """Runs by work, and scores, the newest last."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    joined_ms: dict[str, list[int]] = field(default_factory=dict)
    """From the grant of a lease to its first committed round, by work."""

    def note_joined(self, work: str, took_ms: int) -> None:
        """Keep how long a lease took to take part."""
        self.joined_ms[work] = [*self.joined_ms.pop(work, []), took_ms][-RUNS_OF_ONE:]
        if len(self.joined_ms) > WORKS:
            del self.joined_ms[next(iter(self.joined_ms))]

    def learn(self, work: str, run: Run) -> None:
        """Keep a run; the work that was seen longest ago is forgotten when there are too many."""
        kept = [*self.runs.pop(work, []), run][-RUNS_OF_ONE:]
        self.runs[work] = kept
        if len(self.runs) > WORKS:
            del self.runs[next(iter(self.runs))]

    def judge(self, score: Score) -> None:
        """Keep a score."""
        self.scores = [*self.scores, score][-SCORES:]

    def widening(self) -> float:
        """Factor on half of a range's width: above 1 while fewer of the newest estimates came true than is claimed. Then it
        is what would have made the claimed share of them true."""
        if len(self.scores) < SCORES_TO_JUDGE or self._share() >= CLAIMED:
            return 1.0
        needed = sorted(score.error / score.half for score in self.scores)
        return min(WIDEST, max(1.0, needed[math.ceil(CLAIMED * len(needed)) - 1]))

    def calibration(self) -> Json:
        """{estimates, within_share, median_error_share, claimed_share, widened}; shares are None without any estimate."""
        errors = sorted(math.expm1(score.error) for score in self.scores)
        return {
            "estimates": len(errors),
            "within_share": round(self._share(), 4) if errors else None,
            "median_error_share": round(errors[(len(errors) - 1) // 2], 4) if errors else None,
            "claimed_share": CLAIMED,
            "widened": round(self.widening(), 4),
        }

    def _share(self) -> float:
        return sum(score.within for score in self.scores) / len(self.scores)


def work_of(spec: Mapping[str, Any], customer: str) -> str:
    """The key of the same work: a digest."""
    command, units = spec.get("command"), spec["workers"]["gpus"]
    if command is not None:
        folder = command.get("workdir") or {}
        launch = [command[name] for name in ("launch", "requirements") if command.get(name)]
        return digest_of(["command", customer, list(command["argv"]), folder.get("label"), units, *launch])
    workload = spec["workload"]
    own = [customer, workload.get("digest"), workload.get("class_name")]
    what = [workload["name"]] if workload["kind"] == "builtin" else own
    return digest_of([workload["kind"], what, spec["options"], spec["strategy"], spec.get("train") or {}, units])


def run_of_rounds(
    job: str, gpu: str, flops_per_second: float | None, rounds: Sequence[Json], whole_ms: int, charged_ms: Sequence[int]
) -> Run | None:
    """What a training job's committed rounds show; None of a job without any.

    `rounds` as the state keeps them, in order; `whole_ms` from the first lease to the end; `charged_ms` of each lease.
    """
    trained: dict[str, tuple[int, int]] = {}
    for record in rounds:
        for member in record["members"]:
            _, steps = trained.get(member["lease"], (0, 0))
            trained[member["lease"]] = (member["trained_ms"], steps + member["steps"])
    steps = rounds[-1]["step"] if rounds else 0
    paces = [trained_ms / own for trained_ms, own in trained.values() if own]
    if not paces or steps < 1 or whole_ms < 1:
        return None
    in_rounds_ms = sum(record["duration_ms"] for record in rounds)
    step_ms = min(max(paces), in_rounds_ms / steps)
    round_ms = (in_rounds_ms - step_ms * steps) / len(rounds)
    workers = max(len(record["members"]) for record in rounds)
    other_ms = max(0.0, whole_ms - in_rounds_ms)
    return Run(job, gpu, workers, flops_per_second, step_ms, round_ms, other_ms, _charged(whole_ms, charged_ms))


def run_of_attempts(
    job: str,
    gpu: str,
    flops_per_second: float | None,
    attempts: Sequence[Json],
    whole_ms: int,
    charged_ms: Sequence[int],
) -> Run | None:
    """What a batch job's tries show: they count as its one step."""
    tried_ms = sum(attempt["duration_ms"] for attempt in attempts)
    if whole_ms < 1 or not attempts:
        return None
    other_ms = max(0.0, float(whole_ms - tried_ms))
    return Run(job, gpu, 1, flops_per_second, float(tried_ms), 0.0, other_ms, _charged(whole_ms, charged_ms))


def _charged(whole_ms: int, charged_ms: Sequence[int]) -> float:
    return min(1.0, sum(charged_ms) / (len(charged_ms) * whole_ms)) if charged_ms else 0.0
