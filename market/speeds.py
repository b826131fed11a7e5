"""How long a job's steps take on an offer, as far as its measured hardware says. Pure.

For `byte_lm` a step costs 6 · parameters · tokens floating-point operations (Kaplan et al., arXiv 2001.08361, section 2.1);
of other workloads nothing is known before they have run, nor of a batch job's command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from market.orders import Offer
from market.outcomes import Json
from trainers.workloads.options import WORKLOADS, size_of

UTILISATION: Final = 0.5
"""Share of a measured matrix product's speed that training reaches: 0.51 for byte_lm 1M on one core, measured."""
START_MS: Final = 3_000
ROUND_MS: Final = 300
"""What a lease takes to its first step, and what a round takes beside its steps."""


def expected_job_ms(spec: Json, seats: Sequence[Offer], measured: Mapping[str, Mapping[str, float]]) -> int | None:
    """How long the job takes on these seats: as long as its slowest worker; None if that is not known."""
    step_s = expected_step_s(spec, seats, measured)
    if step_s is None:
        return None
    return START_MS + int(spec["rounds"]) * ROUND_MS + round(int(spec["steps"]) * step_s * 1_000)


def expected_step_s(spec: Json, seats: Sequence[Offer], measured: Mapping[str, Mapping[str, float]]) -> float | None:
    """Seconds of an inner step of the slowest worker; None if that is not known."""
    flops = flops_per_step(spec)
    speeds = [flops_per_second(measured.get(seat.id, {}), seat.gpus) for seat in seats]
    known = [speed for speed in speeds if speed is not None]
    if flops is None or not seats or len(known) < len(seats):
        return None
    return flops / (min(known) * int(spec["workers"]["gpus"]))


def flops_per_step(spec: Json) -> float | None:
    """Floating-point operations of one inner step of one worker, or None for a workload that is no language model."""
    parameters, tokens = parameters_of(spec), tokens_per_step(spec)
    return None if parameters is None or tokens is None else 6.0 * parameters * tokens


def tokens_per_step(spec: Json) -> int | None:
    """What one worker of a language model reads in an inner step; None for other workloads."""
    if parameters_of(spec) is None:
        return None
    train = spec.get("train", {})
    batches = int(train.get("accumulate", 1)) * int(train.get("processes", 1))
    return int(_option(spec, "context")) * int(_option(spec, "batch")) * batches


def parameters_of(spec: Json) -> float | None:
    """How many parameters the model has, as far as its size dial says so: of our language models."""
    workload = spec.get("workload", {"kind": "command"})
    if workload["kind"] != "builtin" or "size" not in WORKLOADS.get(workload["name"], {}):
        return None
    return size_of(_option(spec, "size"))


def _option(spec: Json, name: str) -> Any:
    """An option of a built-in workload, which may be left to its default."""
    return spec["options"].get(name, WORKLOADS[spec["workload"]["name"]][name].default)


def flops_per_second(measured: Mapping[str, float], gpus: int) -> float | None:
    """What one unit of the offer trains at: measured in training, or a share of its measured matrix products."""
    if measured.get("train_gflops"):
        return measured["train_gflops"] * 1e9 / gpus
    if measured.get("matmul_mflops_per_unit"):
        return measured["matmul_mflops_per_unit"] * 1e6 * UTILISATION
    if measured.get("matmul_gflops"):
        return measured["matmul_gflops"] * 1e9 * UTILISATION / gpus
    return None
