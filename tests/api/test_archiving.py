"""A real exchange that died begins from a snapshot, which a process beside it has made."""

import json
import subprocess
import sys
import threading

from market.archiving import Sealer
from storage.journal_format import segments
from storage.snapshots import snapshots
from tests.api.square import USD, Square, until


def make(square: Square) -> dict[str, int]:
    command = [sys.executable, "-m", "market.snapshotting", "--home", str(square.home.root)]
    found: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def test_a_killed_exchange_goes_on_from_a_snapshot(square: Square) -> None:
    name, ann = square.newcomer("customer", 7 * USD)
    operator = square.local("operator")
    made = make(square)
    assert made["records"] <= operator.status()["journal_records"]
    operator.deposit(f"{name}-later", name, 5)
    before = (ann.balance(), operator.transfers(account=f"wallet:{name}"), operator.offers(), operator.members())
    square.back("exchange", square.kill("exchange"))
    assert (ann.balance(), operator.transfers(account=f"wallet:{name}"), operator.offers(), operator.members()) == before
    lines = [line for line in square.home.log_file("exchange").read_text().splitlines() if "of which it replayed" in line]
    replayed = int(lines[-1].partition("replayed ")[2].partition(",")[0])
    assert 0 < replayed < made["records"]
    again = operator.deposit(f"{name}-later", name, 5)
    assert again["id"] == f"{name}-later"
    assert ann.balance()["wallet_nanos"] == 7 * USD + 5, "the same id books once, also after a snapshot"
    assert operator.verify_books()["ok"]


def test_a_damaged_snapshot_is_named_and_the_whole_journal_counts(square: Square) -> None:
    _, ann = square.newcomer("customer", 3 * USD)
    make(square)
    for path in snapshots(square.home.snapshots):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    square.back("exchange", square.kill("exchange"))
    assert ann.balance()["wallet_nanos"] == 3 * USD
    assert f"{snapshots(square.home.snapshots)[-1].name} is damaged" in square.home.log_file("exchange").read_text()


def test_what_lies_behind_a_snapshot_is_sealed_while_the_market_works(square: Square) -> None:
    name, ann = square.newcomer("customer", 5 * USD)
    square.back("exchange", square.kill("exchange"))  # the segment of before is over
    operator = square.local("operator")
    operator.deposit(f"{name}-more", name, 1)
    make(square)
    over = [path.stem for path in segments(square.home.journal)[:-1]]
    sealer = Sealer(square.home)
    until(lambda: sealer.seal(threading.Event()) or all(path.suffix == ".sealed" for path in segments(square.home.journal)[:-1]), "sealing")
    assert {path.stem for path in square.home.journal.glob("*.sealed")} >= set(over)
    assert operator.verify_books()["ok"]
    square.back("books", square.kill("books"))
    assert until(lambda: operator.verify_books()["ok"], "the books")
    square.back("exchange", square.kill("exchange"))
    assert ann.balance()["wallet_nanos"] == 5 * USD + 1
