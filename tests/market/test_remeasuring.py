"""A host measures what it has, and answers each question of the market once."""

import threading
from pathlib import Path
from typing import Any, cast

from market.actors.host_config import Hardware
from market.actors.measure import measure, measure_disk
from market.actors.remeasuring import Remeasurer, measure_all
from market.client import Market, MarketUnreachable
from market.measurements import doubt_of


class FakeMarket:
    """Takes answers, and has a link of 10 MB/s down and 5 MB/s up."""

    def __init__(self, away: bool = False) -> None:
        self.told: list[tuple[str, int, dict[str, int]]] = []
        self.away = away
        self.blobs = self

    def probe(self, size: int) -> tuple[float, float, float]:
        if self.away:
            raise MarketUnreachable("http://nowhere", "away")
        return 0.02, 0.02 + size / 10e6, 0.02 + size / 5e6

    def report_measured(self, offer: str, *, seed: int, measured: dict[str, int]) -> dict[str, Any]:
        if self.away:
            raise MarketUnreachable("http://nowhere", "away")
        self.told.append((offer, seed, measured))
        return {"doubt": ""}


def test_a_core_says_what_it_does_for_any_seed_and_is_believed(tmp_path: Path) -> None:
    found = measure_all(Hardware("cpu", 1, 0.0), tmp_path, cast(Market, FakeMarket()), seed=5)
    assert set(found) == {
        "matmul_mflops_per_unit", "memory_mbytes_per_second", "cores", "disk_write_mbytes_per_second",
        "disk_read_mbytes_per_second", "head_round_trip_us", "head_down_kbytes_per_second", "head_up_kbytes_per_second",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())
    assert (found["head_round_trip_us"], found["head_down_kbytes_per_second"] // 100, found["head_up_kbytes_per_second"] // 100) == (20_000, 100, 50)
    assert doubt_of("cpu", 1, 0, found) is None
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert measure_disk(tmp_path / "file") == {}
    assert "head_round_trip_us" not in measure_all(Hardware("cpu", 1, 0.0), tmp_path, cast(Market, FakeMarket(away=True)), seed=0)
    assert measure(1, None, seed=2**31 - 1)["cores"] >= 1


def test_each_question_is_answered_once() -> None:
    market, said = FakeMarket(), threading.Semaphore(0)
    remeasurer = Remeasurer(cast(Market, market), "offer-1", lambda seed: {"cores": seed}, lambda *_, **__: said.release())
    for asked in (None, {"seed": 4}, {"seed": 4}, None, {"seed": 4}):
        remeasurer.look(asked)
    assert said.acquire(timeout=60)
    remeasurer.look({"seed": 9})
    assert said.acquire(timeout=60)
    assert market.told == [("offer-1", 4, {"cores": 4}), ("offer-1", 9, {"cores": 9})]


def test_an_answer_that_cannot_be_told_or_made_is_said_here() -> None:
    lines: list[str] = []
    said = threading.Semaphore(0)

    def say(*_: object, message: str, **__: object) -> None:
        lines.append(message)
        said.release()

    def broken(seed: int) -> dict[str, int]:
        raise OSError("no card")

    Remeasurer(cast(Market, FakeMarket(away=True)), "o", lambda seed: {"cores": 1}, say).look({"seed": 1})
    assert said.acquire(timeout=60)
    Remeasurer(cast(Market, FakeMarket()), "o", broken, say).look({"seed": 1})
    assert said.acquire(timeout=60)
    assert "away" in lines[0]
    assert lines[1] == "OSError: no card"
