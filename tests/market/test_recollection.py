"""A market that stands on a snapshot answers as one that has read its whole journal."""

import errno
import json
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from market import archiving
from market.api.desk import Desk
from market.api.feed import Feed
from market.api.shelf import Shelf
from market.archiving import Sealer, is_due
from market.exchange import Exchange
from market.homes import Home
from market.recollection import Memory, new_exchange
from market.snapshotting import make_snapshot
from storage.blobs import BlobStore
from storage.formats import upgrade_home
from storage.journal import Journal, segments
from storage.shapes import ShapeError, describe, from_plain, to_plain
from storage.snapshots import bytes_behind, snapshots
from tests.market.scene import Scene


def busy() -> Scene:
    scene = Scene()
    scene.running()
    scene.round(1, {0: 60_000, 1: 60_000})
    scene.checkpoint(1)
    scene.submit("job-2", "ann")
    scene.wait(60_000)
    scene.evaluate("job-1", 2, 2.5, accuracy=0.25)
    return scene


def answers(exchange: Exchange, scene: Scene) -> dict[str, Any]:
    """What people see, and not only what the fingerprint covers."""
    jobs = [job["id"] for job in exchange.jobs(None)]
    accounts = list(exchange.balances())
    return {
        "jobs": exchange.jobs(None), "offers": exchange.offers(scene.now_ms), "members": exchange.members(),
        "transfers": {account: exchange.transfers(account) for account in accounts},
        "explained": [exchange.explain(job) for job in jobs], "rounds": [exchange.rounds(job) for job in jobs],
        "bundles": [exchange.bundle(job) for job in jobs], "runs": exchange.runs(), "totals": exchange.totals(),
        "balance": exchange.balance("ann"), "directives": [exchange.directive(job) for job in jobs],
    }  # fmt: skip


def home_of(scene: Scene, folder: Path) -> Home:
    home = Home(folder)
    home.make_folders()
    with Journal.open(home.journal, segment_bytes=4096) as journal:
        for record in scene.records:
            journal.append([record])
    return home


def test_every_answer_is_the_same_with_and_without(tmp_path: Path) -> None:
    scene = busy()
    half = len(scene.records) - 5
    first, rest = scene.records[:half], scene.records[half:]
    whole = scene.records
    scene.records = first
    home = home_of(scene, tmp_path)
    made = make_snapshot(home)
    assert made is not None
    assert made["records"] == half
    assert make_snapshot(home) is None, "nothing is new"
    scene.records = whole
    shelves = [Shelf(BlobStore(home.blobs), home.uploads_file) for _ in range(2)]
    memory = Memory(home.snapshots, home.journal)
    with Journal.open(home.journal, since=memory.place) as journal:
        journal.append(rest)
        with_it = Desk(
            journal, new_exchange, Feed(), now_ms=lambda: scene.now_ms, broken=_unbroken, observe=shelves[0].observe,
            recall=memory.recall,
        )  # fmt: skip
        without = Desk(
            journal, new_exchange, Feed(), now_ms=lambda: scene.now_ms, broken=_unbroken, observe=shelves[1].observe
        )  # fmt: skip
        assert (with_it.replayed, without.replayed) == (len(rest), len(whole))
        assert with_it.exchange.fingerprint() == without.exchange.fingerprint()
        assert answers(with_it.exchange, scene) == answers(without.exchange, scene)
        assert with_it.feed.first_record == {
            job: number for job, number in without.feed.first_record.items() if job.startswith("job-")
        }
        assert [h.document() for h in with_it.feed.recent("job-1", half) or []] == [
            h.document() for h in without.feed.recent("job-1", half) or []
        ]
        assert with_it.feed.recent("job-1", 0) is None, "what is older is read from the journal"
    for name in ("_needed_by", "_manifests", "_left", "_saved", "_owners"):
        assert vars(shelves[0])[name] == vars(shelves[1])[name], "or what is needed would be swept"
    assert vars(shelves[0])["_manifests"]["job-1"], "a checkpoint is kept"


def test_a_snapshot_is_due_when_enough_lies_behind_the_newest(tmp_path: Path) -> None:
    scene = busy()
    home = home_of(scene, tmp_path)
    whole = sum(path.stat().st_size for path in segments(home.journal))
    assert bytes_behind(home.snapshots, home.journal) == (whole, 0)
    assert (is_due(home, whole), is_due(home, whole + 1)) == (True, False)
    made = make_snapshot(home)
    assert made is not None
    behind, size = bytes_behind(home.snapshots, home.journal)
    assert (behind < 4096, size) == (True, made["bytes"]), "the last record is counted, nothing before it"
    with Journal.open(home.journal) as journal:
        journal.append([b"x" * (size - behind - 500)])
        assert not is_due(home, 1), "less than the snapshot itself"
        journal.append([b"x" * 1000])
    assert is_due(home, 1)


def test_what_lies_behind_a_snapshot_is_sealed_and_still_replayed(tmp_path: Path) -> None:
    scene = busy()
    home = home_of(scene, tmp_path)
    sealer, over = Sealer(home), threading.Event()
    assert sealer.seal(over) == [], "there is no snapshot"
    assert make_snapshot(home) is not None
    assert sealer.seal(over) == [], "a home of format 1 is brought up first, by the exchange"
    upgrade_home(home.root)
    made = sealer.seal(over)
    paths = segments(home.journal)
    assert [path.suffix for path in paths] == [".sealed"] * len(made) + [".journal"]
    assert len(made) > 1
    assert is_due(home, 1) is False
    exchanges = []
    for recall in (None, Memory(home.snapshots, home.journal).recall):
        with Journal.open(home.journal) as journal:
            desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: scene.now_ms, broken=_unbroken, recall=recall)
        assert desk.replayed == (len(scene.records) if recall is None else 0)
        exchanges.append(desk.exchange)
    assert answers(exchanges[0], scene) == answers(exchanges[1], scene)


def test_a_segment_that_is_damaged_is_named_once_and_the_others_are_sealed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = home_of(busy(), tmp_path)
    assert make_snapshot(home) is not None
    upgrade_home(home.root)
    bad = segments(home.journal)[1]
    bad.write_bytes(bad.read_bytes()[:-1])
    sealer = Sealer(home)
    assert len(sealer.seal(threading.Event())) == len(segments(home.journal)) - 2
    assert sealer.seal(threading.Event()) == []
    told = [one.getMessage() for one in caplog.records if bad.name in one.getMessage()]
    assert len(told) == 1
    assert "the file ends inside a record" in told[0]


def test_a_disk_that_is_full_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_of(busy(), tmp_path)
    assert make_snapshot(home) is not None
    upgrade_home(home.root)
    sealer, now_s = Sealer(home), time.monotonic()
    tries: list[int] = []

    def full(folder: Path, first: int) -> None:
        tries.append(first)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(archiving, "seal_segment", full)
        assert sealer.seal(threading.Event()) == []
        assert sealer.seal(threading.Event()) == []
    assert tries == [1]
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 2 * archiving.AGAIN_S)
    assert len(sealer.seal(threading.Event())) > 1


def _unbroken(error: Exception) -> None:
    raise AssertionError from error


def test_a_snapshot_that_lies_is_passed_over_and_the_journal_counts(tmp_path: Path) -> None:
    scene = busy()
    home = home_of(scene, tmp_path)
    assert make_snapshot(home) is not None
    path = snapshots(home.snapshots)[-1]
    path.write_bytes(path.read_bytes().replace(b'"job-2"', b'"job-9"'))
    memory = Memory(home.snapshots, home.journal)
    assert memory.place() is None
    assert path.name in memory.passed_over[0]


@dataclass
class Odd:
    """A little of everything that a state is made of."""

    pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    numbered: dict[int, dict[str, Any]] = field(default_factory=dict)
    order: dict[str, None] = field(default_factory=dict)
    few: deque[int | None] = field(default_factory=lambda: deque(maxlen=3))
    some: set[int] = field(default_factory=set)
    marks: list[tuple[int, float]] = field(default_factory=list)
    names: tuple[str, ...] = ()


def test_shapes_come_back_as_they_were() -> None:
    odd = Odd({("b", "a"): 1, ("a", "b"): 2}, {3: {"x": [1, None]}, 1: {}}, {"z": None, "a": None}, deque([1, None], 3), {5, 1}, [(1, 0.5)], ("n",))
    again = from_plain(Odd, json.loads(json.dumps(to_plain(Odd, odd))))
    assert again == odd
    assert [list(again.pairs), list(again.numbered), list(again.order), again.few.maxlen] == [
        [("b", "a"), ("a", "b")], [3, 1], ["z", "a"], 3,
    ]  # fmt: skip
    assert "pairs: dict[tuple[str, str], int]" in describe(Odd)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {1}, object()])
def test_what_json_would_change_silently_is_refused(value: object) -> None:
    with pytest.raises(ShapeError):
        to_plain(Any, {"inside": [value]})
