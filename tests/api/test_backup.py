"""A market moves to another home and goes on: same bills to the byte, same model, same job; and only one of the two."""

import json
import threading
from pathlib import Path

import pytest

from cli.main import run as torg
from market.client import Market
from market.homes import Home
from market.supervisor import StartFailed, start, stop
from tests.api.square import PATIENCE_S, USD, FakeProvider, FakeRun, Square, make_offer, make_spec, until

JOB = "job-a"


def said(capsys: pytest.CaptureFixture[str], home: Path, *argv: str) -> tuple[int, str, str]:
    """What a command answers, of this home."""
    code = torg([*argv, "--home", str(home)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def books_of(capsys: pytest.CaptureFixture[str], home: Path) -> list[tuple[int, str, str]]:
    """Everything that a bill is read from."""
    asked = (["billing", "--format", "csv"], ["billing", "--format", "csv", "--role", "operator"], ["invoice", JOB, "--json"],
             ["books", "verify", "--json"], ["billing", "--by", "job", "--json"])  # fmt: skip
    return [said(capsys, home, *argv) for argv in asked]


def test_a_market_moved_to_a_fresh_home_bills_the_same_and_goes_on(
    spare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME"):
        monkeypatch.delenv(name, raising=False)
    new, secret, live, moved = (tmp_path / name for name in ("new", "secret", "live.backup", "moved.backup"))
    secret.write_text("a passphrase\n")
    secret.chmod(0o600)
    start(spare, no_ray=True)
    old = Square(Home(spare).read_market()["url"], Home(spare))
    machines = [FakeProvider(old.local("provider"), make_offer(f"offer-{n}", "here")) for n in range(2)]
    try:
        old.local("operator").deposit("d1", "customer", 20 * USD)
        old.local("customer").submit_job(JOB, make_spec("here"))
        run = FakeRun(old.local("plane"), JOB)
        workers = run.workers(2)
        run.report(workers)
        state = run.checkpoint()

        until(lambda: old.local("customer").invoice(JOB), "the books have begun")
        code, out, _ = said(capsys, spare, "head", "--json")
        assert (code, json.loads(out)["seen_before"]) == (0, None)
        seen = json.loads(out)["head"]["size"]

        code, out, _ = said(capsys, spare, "backup", str(live), "--passphrase-file", str(secret), "--json")
        made = json.loads(out)
        assert (code, made["moved"], made["missing"], made["encrypted"]) == (0, False, [], True)
        assert live.stat().st_mode & 0o777 == 0o600
        assert Home(spare).read_keys()["operator"].encode() not in live.read_bytes()
        code, _, err = said(capsys, new, "restore", str(live), "--passphrase-file", str(secret))
        assert (code, err.startswith("torg: the market that this is a backup of runs at http")) == (3, True)
        assert not new.exists()

        moving = threading.Thread(target=torg, args=(["backup", str(moved), "--move", "--home", str(spare)],))
        moving.start()
        until(lambda: run.market.directive(JOB)["wanted"] == "pause", "the market ends, and asks the run to pause")
        run.market.report_halted(JOB, state="paused", reason="market_down", round=1, manifest=run.manifest)
    finally:
        for machine in machines:
            machine.over.set()
        for machine in machines:
            machine.thread.join()
        old.close()
    moving.join(60)
    assert moved.exists()
    capsys.readouterr()
    with pytest.raises(StartFailed, match="was moved into the backup") as failed:
        start(spare, no_ray=True)
    assert failed.value.code == "market_moved"

    assert said(capsys, new, "restore", str(moved))[0] == 0
    before = books_of(capsys, spare)
    assert [code for code, _, _ in before] == [0] * 5
    assert "job-a" in before[0][1]
    assert books_of(capsys, new) == before, "the market is down: both are read from their files"

    info = start(new, no_ray=True)
    after = Square(info.url, Home(new))
    try:
        customer = after.local("customer")
        charged = [line["charged_nanos"] for line in customer.billing(by="job")]
        assert charged == [line["charged_nanos"] for line in json.loads(before[-1][1])], "and by the market itself"
        assert customer.result(JOB, round=1)["manifest"]["state"] == state
        assert customer.read_blob(state) == run.state
        machines = [FakeProvider(after.local("provider"), make_offer(f"offer-{n}", "here")) for n in range(2)]
        going_on = FakeRun(after.local("plane"), JOB)
        going_on.round, going_on.manifest = 1, run.manifest
        going_on.report(going_on.workers(2))
        going_on.checkpoint()
        going_on.market.report_halted(JOB, state="done", reason="done", round=2, manifest=going_on.manifest)
        assert customer.job(JOB)["state"] == "done"
        with Market(info.url, patience_s=PATIENCE_S) as market:
            assert market.healthz()["term"] > 1 << 20
        bill = str(tmp_path / "bill.json")
        code, out, _ = said(capsys, new, "invoice", JOB, "-o", bill, "--json")
        assert (code, json.loads(out)["file"]) == (0, bill)
        code, out, _ = said(capsys, new, "verify", bill, "--json")
        assert (code, json.loads(out)["ok"], json.loads(out)["expected_key_from"]) == (0, True, "market.json")
        code, out, _ = said(capsys, new, "head", "--json")
        assert (code, json.loads(out)["seen_before"] > seen) == (0, True), "the log of before the move goes on"
        heads = json.loads((new / "heads.json").read_text())
        next(iter(heads["markets"].values()))["newest"]["root"] = "0" * 64
        (new / "heads.json").write_text(json.dumps(heads))
        code, _, err = said(capsys, new, "head")
        assert (code, "does not begin with the" in err) == (1, True)
    finally:
        for machine in machines:
            machine.close()
        after.close()
        stop(new)


def test_what_cannot_be_backed_up_or_restored_is_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*argv: str) -> str:
        code, _, err = said(capsys, tmp_path / "home", *argv)
        assert code == 3
        return err.replace(str(tmp_path), "~").strip()

    (tmp_path / "home" / "journal").mkdir(parents=True)
    (tmp_path / "full").write_text("x")
    (tmp_path / "full").chmod(0o644)
    full = str(tmp_path / "full")
    new = str(tmp_path / "b")
    assert (
        lines("backup", new)
        == "torg: there is no market in ~/home: its journal is empty (name the market's folder with --home)"
    )
    assert lines("backup", full) == "torg: FILE: ~/full exists already (name a new file)"
    nowhere = str(tmp_path / "nowhere" / "b")
    assert lines("backup", nowhere, "--move") == "torg: FILE: ~/nowhere is no folder (make it, or name another place)"
    assert (
        lines("backup", new, "--passphrase-file", full)
        == "torg: --passphrase-file: others can read ~/full (chmod 600 ~/full)"
    )
    assert lines("restore", full) == "torg: --home: ~/home is not empty (name a fresh folder)"
    assert lines("restore", full, "--check") == (
        "torg: this is not a backup of a market: it does not begin as one (name a file that `torg backup` has made)"
    )
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".*")), "nothing half-made stays"
