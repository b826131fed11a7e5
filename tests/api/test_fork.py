"""A market whose journal was put back to an earlier state and then went another way: who saw the first way finds out."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.actors.head_watch import HeadWatch
from market.client import Market
from market.head_memory import HeadMemory
from market.homes import Home
from market.supervisor import start, stop
from market.witness import AnotherHistory
from storage.signing import new_signing_key
from tests.api.square import PATIENCE_S, USD

NOW_MS = 1_795_000_000_000
ANNS = new_signing_key()


@pytest.fixture
def put_back(spare: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The home of a market that runs, and one like it that was before a deposit that ann and a provider have seen."""
    earlier = tmp_path / "earlier"
    yield spare, earlier
    for home in (spare, earlier):
        stop(home)


def operator(home: Path) -> Market:
    return Market(Home(home).read_market()["url"], Home(home).read_keys()["operator"], patience_s=PATIENCE_S)


def test_a_journal_put_back_is_found_by_all_who_saw_further(put_back: tuple[Path, Path], tmp_path: Path) -> None:
    home, earlier = put_back
    ann = HeadMemory(tmp_path / "ann" / "heads.json", lambda: ANNS)
    (tmp_path / "p").mkdir()
    said: list[tuple[str, str]] = []

    def watch(market: Market) -> HeadWatch:
        return HeadWatch(market, tmp_path / "p", lambda what, **more: said.append((what, more["message"])), lambda: NOW_MS)

    start(home, no_ray=True)
    with operator(home) as market:
        market.deposit("d1", "customer", USD)
        shutil.copytree(home / "journal", tmp_path / "journal")
        market.deposit("d2", "customer", USD)
        seen = ann.look(market, now_ms=NOW_MS).head.size
        watch(market).look()
        assert said == []
    stop(home)
    shutil.copytree(home, earlier)
    shutil.rmtree(earlier / "journal")
    (tmp_path / "journal").rename(earlier / "journal")

    start(earlier, no_ray=True)
    with operator(earlier) as market:
        for number in range(2):  # as many records as were seen, and then more
            market.deposit(f"other-{number}", "customer", USD)
            with pytest.raises(AnotherHistory, match=f"(does not begin with the {seen}|{seen} were) .*seen"):
                ann.look(market, now_ms=NOW_MS)
            watch(market).look()
            assert [what for what, _ in said] == ["another_history"] * (number + 1)
        assert market.balance("customer")["wallet_nanos"] == 3 * USD, "the forked market itself sees nothing wrong"
    assert len(ann.alarms()[-1]["heads"]) == 2, "both signed heads are kept: they prove it"
