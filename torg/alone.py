"""A workload trained on this machine alone, without a market: the same inner loop, a line of progress now and then."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torg.scripts import Setup, workload
from trainers.inner_options import inner_options
from trainers.loop import InnerLoop, InnerResult
from trainers.workload import Workload

REPORTS = 10
COUNTS_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out. `held_out_loss` is None when it is not finite; `losses` has one entry a step."""

    model: torch.nn.Module
    losses: list[float]
    held_out_loss: float | None
    metrics: Mapping[str, float]


def train(
    job: type[Workload] | Setup,
    *,
    steps: int,
    options: Mapping[str, Any] | None = None,
    data: Path | str | None = None,
    seed: int = 1,
    train: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    told: Callable[[str], None] = print,
) -> Trained:
    """Train alone, as one worker of the job would, and tell of it ten times.

    `options`, `data`, `steps`, `seed` and `train` (precision, accumulate, clip: 1 by default, …) as in a job file.
    `device`: a card where there is one. Raises NotFinite, TypeError for a loss that is no scalar.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; train for at least 1")
    known = inner_options({"train": dict(train or {})})
    if known.processes > 1:
        raise ValueError(f"train.processes is {known.processes}; alone there is one")
    made: Callable[..., Any] = job if isinstance(job, type) else workload(job)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    task: Workload = made(dict(options or {}), None if data is None else Path(data), seed)
    loop = InnerLoop(task, seed, steps, where, known)
    losses: list[float] = []
    held_out: float | None = None
    for number in range(REPORTS):
        first, after = (steps * (number + part) // REPORTS for part in (0, 1))
        if first < after:
            began = time.monotonic()
            result = loop.train(first, after - first, 0, _counter(first, steps), position=first)
            took_s = time.monotonic() - began
            losses += result.losses
            held_out = loop.evaluate()
            told(_line(after, steps, result, held_out, loop.metrics, took_s))
    return Trained(loop.model, losses, held_out, loop.metrics)


def _line(
    step: int, steps: int, result: InnerResult, held_out: float | None, metrics: Mapping[str, float], took_s: float
) -> str:
    mean = sum(result.losses) / len(result.losses)
    apart = "not finite" if held_out is None else f"{held_out:.4f}"
    figures = "".join(f"   {name} {value:.4f}" for name, value in metrics.items())
    rate = len(result.losses) / max(took_s, 1e-9)
    return f"step {step:>{len(str(steps))}}/{steps}   loss {mean:.4f}   held out {apart}{figures}   {rate:.3g} steps/s"


def _counter(first: int, steps: int) -> Callable[[int, float, int], None]:
    """Counts steps on a terminal; a line that is followed by `told`'s."""
    if not sys.stderr.isatty():
        return lambda *_: None
    last = 0.0

    def count(done: int, loss: float, tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > COUNTS_EVERY_S:
            last = now
            sys.stderr.write(f"\rstep {first + done}/{steps}   loss {loss:.4f}\r")
            sys.stderr.flush()

    return count
