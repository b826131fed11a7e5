"""What a worker could not send stays in what it trains on: in a whole run, with one that is late and one that dies."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.trainers import ring_machines
from tests.trainers.ring import ring
from tests.trainers.ring_jobs import is_done, spec_of, strategy_of
from tests.trainers.ring_machines import hold


def test_every_share_starts_from_what_all_agree_on_and_what_the_worker_still_owes(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = strategy_of("diloco", codec="top_k:64/4096+fp16", keep_unsent=True, outer_lr=1.0, outer_momentum=0.0)
    owing: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    wrong: list[tuple[int, int]] = []
    train = ring_machines.Child.train

    def noted(child: Any, start: np.ndarray, **share: Any) -> Any:
        seat, state = child._seat, child._seat.training.member.state
        owed = state.get("residual", np.zeros_like(start))
        if owed.any():
            owing[seat.slot].add(share["round"])
        if not np.array_equal(start, state["parameters"] - owed):
            wrong.append((seat.slot, share["round"]))
        return train(child, start, **share)

    monkeypatch.setattr(ring_machines.Child, "train", noted)
    with ring(spec_of(strategy, rounds=9), first_deadline_ms=300, grace_ms=200, joining_ms=200) as job:
        gate = threading.Event()
        job.at(1, 4, "training", hold(gate))
        job.once(job.reported(4), gate.set)
        job.at(2, 6, "training", lambda seat: job.kill(2))
        assert is_done(job.run())
        job.check()
        assert (1, 4, "training") in job.fired
        assert (2, 6, "training") in job.fired
        assert job.door.rounds[3]["late"] == [1]
    assert not wrong
    assert owing[0] == set(range(2, 10))
    assert max(owing[1]) == 9, "who was late owes what it made then, and trains on from it"
