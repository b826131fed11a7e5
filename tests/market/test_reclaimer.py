"""How long a renter has to leave when the owner takes a machine back: as promised, or less where the owner says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from market.actors.reclaimer import Reclaimer


@pytest.mark.parametrize(("said", "had"), [({}, 5.0), ({"notice_s": 0.0}, 0.0), ({"notice_s": 2.0}, 2.0), ({"notice_s": 60.0}, 5.0)])
def test_the_owner_gives_the_notice_that_it_names_and_never_more_than_it_promised(tmp_path: Path, said: dict[str, float], had: float) -> None:
    config: Any = SimpleNamespace(home=tmp_path, notice_ms=5_000, offer="offer-a")
    lease = {"id": "lease-1", "epoch": 1, "job": "job-1", "gpus": 1}
    stable = MagicMock(taken=1, hardware=SimpleNamespace(units=1))
    stable.leases.return_value, stable.on_cards.return_value, stable.leave.return_value = [lease], [], []
    market = MagicMock()
    market.hold_offer.return_value = {"version": 1}
    reclaimer = Reclaimer(config, market, stable, MagicMock(), MagicMock())
    asked = MagicMock(request={"ask": "reclaim", "gpus": None, "why": "mine", "until_ms": None} | said)
    reclaimer.answer(asked)
    reclaimer.close()
    stable.leave.assert_called_once_with([1], had)
    assert asked.tell.call_args_list[0].kwargs["notice_s"] == had
    assert asked.end.call_args.args == ("free",)
