"""A market's head loses its disk: a home is made from the mirror, with the same bills to the byte."""

import json
import shutil
import threading
from itertools import count
from pathlib import Path

import pytest

from market.client import Market, MarketUnreachable
from market.homes import Home
from market.supervisor import stop
from storage.journal import read_journal
from storage.records import decode_record
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec, refusal, until
from tests.api.test_backup import said

JOB = "job-a"


def bills(capsys: pytest.CaptureFixture[str], home: Path) -> list[tuple[int, str, str]]:
    """What the market's books say, read from its files."""
    return [said(capsys, home, *argv) for argv in (["billing", "--format", "csv", "--role", "operator"], ["invoice", JOB, "--json"])]


def test_a_head_loses_its_disk_in_the_midst_of_traffic(
    spare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME"):
        monkeypatch.delenv(name, raising=False)
    mirror, secret, new = tmp_path / "mirror", tmp_path / "secret", tmp_path / "new"
    mirror.mkdir()
    secret.write_text("a passphrase\n")
    secret.chmod(0o600)
    up = ["up", "--ray", "none"]
    code, _, err = said(capsys, spare, *up, "--mirror", str(tmp_path / "nowhere"))
    assert (code, err.strip()) == (3, f"torg: --mirror: {tmp_path}/nowhere is no folder: is it mounted? (make the folder, or name another place, or none)")
    code, _, err = said(capsys, spare, *up, "--mirror-sync", str(tmp_path / "nowhere"))
    assert (code, err.startswith("torg: --mirror-sync: ")) == (3, True)
    how = ["--mirror", str(mirror), "--mirror-every", "0.1", "--mirror-passphrase-file", str(secret)]
    assert said(capsys, spare, *up, *how)[0] == 0
    old = Square(Home(spare).read_market()["url"], Home(spare))
    operator = old.local("operator")
    machines = [FakeProvider(old.local("provider"), make_offer(f"offer-{n}", "here")) for n in range(2)]
    over = threading.Event()

    def deposits() -> None:
        with Market(old.url, Home(spare).read_keys()["operator"], patience_s=0) as market:
            numbers = count()
            while not over.is_set():
                try:
                    market.deposit(f"d-{next(numbers)}", "customer", 7)
                except Exception:  # noqa: BLE001 - the market is killed under it
                    return

    try:
        operator.deposit("d", "customer", 20 * USD)
        old.local("customer").submit_job(JOB, make_spec("here"))
        run = FakeRun(old.local("plane"), JOB)
        workers = run.workers(2)
        run.report(workers)
        run.checkpoint()
        run.market.report_halted(JOB, state="done", reason="done", round=1, manifest=run.manifest)
        follows = lambda: (one := operator.status()["mirrors"][0])["state"] == "following" and one["lag_records"] == 0 and one["has_keys"]  # noqa: E731
        until(follows, "the mirror has everything")
        for machine in machines:
            machine.close()
        goes_away_and_comes_back(mirror, spare, operator, capsys)
        stood = operator.status()["mirrors"][0]["records"]
        traffic = threading.Thread(target=deposits)
        traffic.start()
        until(lambda: operator.status()["mirrors"][0]["records"] >= stood + 20, "deposits flow, and into the mirror")
        seen = operator.status()["mirrors"][0]
        assert (seen["place"], seen["error"]) == (str(mirror), None)
        old.kill("supervisor")
        old.kill("exchange")
        over.set()
        traffic.join()
    finally:
        over.set()
        for machine in machines:
            machine.close()
        old.close()
        stop(spare)
    lost = Home(spare)
    whole = [record.payload for record in read_journal(lost.journal)]
    before = bills(capsys, spare)

    code, out, _ = said(capsys, new, "restore", "--from-mirror", str(mirror), "--check", "--json")
    held = json.loads(out)
    assert (code, held["cut_bytes"]) == (0, 0)
    code, _, err = said(capsys, new, "restore", "--from-mirror", str(mirror))
    assert (code, err) == (3, "torg: the backup is encrypted (name --passphrase-file)\n")
    assert not new.exists()
    code, out, err = said(capsys, new, "restore", "--from-mirror", str(mirror), "--passphrase-file", str(secret), "--json")
    found = json.loads(out)
    assert (code, found["has_keys"], found["records"]) == (0, True, held["records"]), err
    assert len(found["missing"]) == 1, "the checkpoint was in the folder of the old home"
    back = [record.payload for record in read_journal(Home(new).journal)]
    assert back == whole[: len(back)]
    assert len(back) >= stood + 20, "of the traffic at most the newest is lost"
    shutil.rmtree(spare / "journal")
    assert [code for code, _, _ in before] == [0, 0]
    assert bills(capsys, new) == before, "to the byte"

    assert said(capsys, new, *up)[0] == 0
    after_start = Square(Home(new).read_market()["url"], Home(new))
    try:
        operator = after_start.local("operator")
        until(lambda: operator.status()["mirrors"][0]["state"] == "following", "the new market goes on in the mirror")
        operator.deposit("later", "customer", 1)
        assert operator.verify_books()["ok"]
    finally:
        after_start.close()
        assert stop(new)
    other = tmp_path / "other"
    code, _, err = said(capsys, other, *up, "--mirror", str(mirror))
    assert (code, "is the mirror of another market, market-" in err, other.exists()) == (3, True, False)
    stray = [path for path in mirror.rglob("*") if path.is_file() and Home(new).read_keys()["operator"].encode() in path.read_bytes()]
    assert stray == [], "no key is in the mirror as it is"


def goes_away_and_comes_back(mirror: Path, home: Path, operator: Market, capsys: pytest.CaptureFixture[str]) -> None:
    """The mount goes: what is left is an empty folder, into which nothing is written."""
    aside = mirror.with_name("unmounted")
    mirror.rename(aside)
    mirror.mkdir()
    operator.deposit("d1", "customer", 1)
    until(lambda: operator.status()["mirrors"][0]["state"] == "away", "the empty folder is no mirror")
    told = operator.status()["mirrors"][0]
    assert told["lag_records"] >= 1
    assert "is it mounted" in told["error"]
    code, out, _ = said(capsys, home, "status")
    assert (code, f"mirror {mirror} away, lacks " in out) == (0, True), out
    assert not [path for path in mirror.rglob("*") if path.is_file()]
    shutil.rmtree(mirror)
    aside.rename(mirror)
    until(lambda: operator.status()["mirrors"][0]["lag_records"] == 0, "it has caught up")
    assert "is away and is tried again" in Home(home).log_file("exchange").read_text()


def test_what_a_synchronous_mirror_does_not_have_is_not_confirmed(
    spare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME"):
        monkeypatch.delenv(name, raising=False)
    mirror, new = tmp_path / "mirror", tmp_path / "new"
    mirror.mkdir()
    assert said(capsys, spare, "up", "--ray", "none", "--mirror-sync", str(mirror))[0] == 0
    square = Square(Home(spare).read_market()["url"], Home(spare))
    operator, key = square.local("operator"), Home(spare).read_keys()["operator"]
    confirmed: list[list[str]] = [[] for _ in range(4)]
    threads: list[threading.Thread] = []

    def deposits(thread: int) -> None:
        with Market(square.url, key, patience_s=0) as market:
            while True:
                try:
                    market.deposit(f"d-{thread}-{len(confirmed[thread])}", "customer", 7)
                except MarketUnreachable:  # it is killed under us
                    return
                confirmed[thread].append(f"d-{thread}-{len(confirmed[thread])}")

    try:
        operator.deposit("before", "customer", 1)
        mirror.rename(tmp_path / "unmounted")
        with Market(square.url, key, patience_s=0) as hasty:
            refused = refusal(lambda: hasty.deposit("while-away", "customer", 1))
            assert (refused.status, refused.code, "is it mounted" in refused.message) == (503, "mirror_away", True)
            assert refusal(lambda: hasty.deposit("also", "customer", 1)).code == "mirror_away"
            assert (hasty.status()["mirror_away"], hasty.healthz()["ok"]) == (True, False)
        assert "NO NEW WORK IS TAKEN" in said(capsys, spare, "status")[1]
        (tmp_path / "unmounted").rename(mirror)
        operator.deposit("while-away", "customer", 1)
        assert operator.balance("customer")["wallet_nanos"] == 2, "asked again it counts once"
        threads += [threading.Thread(target=deposits, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: sum(map(len, confirmed)) > 60, "deposits flow")
    finally:
        square.kill("supervisor")
        square.kill("exchange")
        for thread in threads:
            thread.join()
        square.close()
        stop(spare)
    shutil.rmtree(spare)
    code, _, err = said(capsys, new, "restore", "--from-mirror", str(mirror), "--json")
    assert code == 0, err
    events = [event for record in read_journal(Home(new).journal) for event in decode_record(record.payload)["events"]]
    booked = [event["id"] for event in events if event["type"] == "transfer"]
    assert len(booked) == len(set(booked))
    missing = {"before", "while-away", *(id for ids in confirmed for id in ids)} - set(booked)
    assert missing == set(), "nothing that was confirmed is lost with the disk"
