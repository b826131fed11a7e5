"""The learning gate: on one small model and paired seeds, every protocol learns as well as its equations promise.

102 thousand parameters, 4 workers, 32 rounds of 6 steps, loss in nats per byte, the ratio on one seed (SEEDS=2 in the
environment: the mean over two). Each strategy's options were chosen by hand on a small grid: inner rate 0.014 to 0.04
(`demo` 0.006 to 0.02); η, β 0.6 to 1.2, γ 0.8 and 1; μ, α 0 to 0.6, decay 0.6 to 0.95; mixing 0 to 0.3; kept 1/16 to
1/4; weight decay of `demo` 0 to 1, its blocks 8 to 64 wide. `ddp` is at its best rate to 0.2 %. In so short a run
less momentum and denser selections than published are best. Two are not at their best, so that mistakes show:
`diloco` with η 1 and μ 0.2 learns 0.4 % more, but a wrong sign of μ 0.4 would cost just the 6 % that are allowed;
`sparseloco` with 512 of 4096 learns 0.7 % more, and forgets unnoticed.
"""

import os
from collections.abc import Callable
from functools import cache
from statistics import fmean

import numpy as np
import torch

from tests.trainers.tiny_lm import TinyLM
from trainers.codecs import Vector
from trainers.simulation import simulate
from trainers.strategies import diloco, noloco, sparseloco

DDP = {"name": "ddp"}
DILOCO = {"name": "diloco", "outer_lr": 0.7, "outer_momentum": 0.5}
COARSE = {"name": "diloco", "outer_lr": 1.0, "outer_momentum": 0.0, "codec": "sign1", "error_feedback": True,
          "keep_unsent": True, "inner_steps": 2}  # fmt: skip
NOLOCO = {"name": "noloco", "alpha": 0.1, "beta": 1.0, "gamma": 1.0}
STREAMING = {"name": "streaming_diloco", "fragments": 2, "overlap_steps": 1, "mixing": 0.1, "outer_lr": 1.0,
             "outer_momentum": 0.2}  # fmt: skip
SPARSE = {"name": "sparseloco", "decay": 0.8, "codec": "top_k:256/4096+int2"}
DEMO = {"name": "demo", "chunk": 8, "top_k": 4, "weight_decay": 0.3}
SEEDS = tuple(range(1, 1 + int(os.environ.get("SEEDS", "1"))))


def held_out(strategy: dict[str, object], rate: float, seed: int, steps: int = 192, inner_steps: int = 6) -> float:
    """Held-out loss after so many steps of four workers."""
    torch.set_num_threads(1)
    options = {"inner_steps": inner_steps, **strategy}
    loss = simulate(lambda: TinyLM({"lr": rate}, None, seed), options, steps=steps, seed=seed)[-1].held_out
    assert loss is not None
    return loss


@cache
def ddp(seed: int) -> float:
    """What one batch four times as large learns."""
    return held_out(DDP, 0.03, seed)


@cache
def plain_diloco(seed: int) -> float:
    """DiLoCo in its usual codec."""
    return held_out(DILOCO, 0.03, seed)


def against(reference: Callable[[int], float], strategy: dict[str, object], rate: float) -> float:
    """Mean over the seeds of a strategy's loss divided by the reference's on the same data from the same weights."""
    return fmean(held_out(strategy, rate, seed) / reference(seed) for seed in SEEDS)


def test_diloco_learns_nearly_as_much_as_ddp_from_as_many_tokens():
    assert 0.98 < fmean(plain_diloco(seed) / ddp(seed) for seed in SEEDS) <= 1.06


def test_one_bit_an_element_every_second_step_learns_as_much_as_ddp_where_what_was_not_sent_is_kept():
    assert against(ddp, COARSE, 0.03) <= 1.01


def test_noloco_learns_nearly_as_much_as_diloco():
    assert against(plain_diloco, NOLOCO, 0.03) <= 1.02


def test_streaming_diloco_learns_as_much_as_diloco():
    assert against(plain_diloco, STREAMING, 0.04) <= 1.005


def test_sparseloco_learns_nearly_as_much_as_ddp():
    assert against(ddp, SPARSE, 0.04) <= 1.04


def test_demo_learns_nearly_as_much_as_ddp():
    assert against(ddp, DEMO, 0.02) <= 1.04


def test_quantised_contributions_learn_as_much_as_exact_ones():
    def short(codec: str, seed: int) -> float:
        return held_out({**DILOCO, "codec": codec}, 0.01, seed, steps=96, inner_steps=12)

    exact = {seed: short("identity", seed) for seed in SEEDS}
    for codec in ("int8", "fp4"):
        assert abs(fmean(short(codec, seed) / exact[seed] for seed in SEEDS) - 1) <= 0.002


def test_the_gate_stops_noloco_with_the_sign_as_printed(monkeypatch):
    set_up = noloco.NoLoco.__init__

    def as_printed(self: noloco.NoLoco, *given: object) -> None:
        set_up(self, *given)  # type: ignore[arg-type]
        self.beta = -self.beta

    monkeypatch.setattr(noloco.NoLoco, "__init__", as_printed)
    assert held_out(NOLOCO, 0.03, 1) > 1.02 * plain_diloco(1)


def test_the_gate_stops_diloco_whose_momentum_has_the_wrong_sign(monkeypatch):
    def wrong(theta: Vector, u: Vector, delta: Vector, eta: np.float32, mu: np.float32) -> tuple[Vector, Vector]:
        return theta - eta * (delta - mu * (mu * u + delta)), mu * u + delta

    monkeypatch.setattr(diloco, "nesterov", wrong)
    assert held_out(DILOCO, 0.03, 1) > 1.06 * ddp(1)


def test_the_gate_stops_sparseloco_that_forgets_what_it_did_not_send(monkeypatch):
    def forgetful(self: object, state: dict[str, Vector], decoded: object, moment: object) -> dict[str, Vector]:
        return {name: vector for name, vector in state.items() if name != "residual"}

    monkeypatch.setattr(sparseloco.SparseLoco, "sent", forgetful)
    assert held_out(SPARSE, 0.04, 1) > 1.04 * ddp(1)
