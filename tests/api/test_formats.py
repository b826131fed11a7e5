"""A real market on an older home, and on a newer one."""

import json
from pathlib import Path

import pytest

from cli.main import run
from market.client import Market
from market.homes import Home
from market.supervisor import start, stop
from storage.backups import unpack_backup
from storage.formats import HOME_FORMAT, JOURNAL_FORMAT, home_format
from storage.journal import Journal, read_journal
from tests.api.square import until

HOMES = Path(__file__).parents[1] / "golden" / "homes"


@pytest.fixture
def old_home(spare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of format 1, as its market left it."""
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME", "TORG_CA"):
        monkeypatch.delenv(name, raising=False)
    spare.mkdir()
    with (HOMES / "home-1.backup").open("rb") as file:
        unpack_backup(file, spare)
    return spare


def _files(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_home_of_before_is_brought_up_and_its_market_goes_on(old_home: Path) -> None:
    before = list(read_journal(old_home / "journal"))
    assert home_format(old_home) == 1
    info = start(old_home, no_ray=True)
    assert home_format(old_home) == HOME_FORMAT
    assert f"the home was of format 1 and is of format {HOME_FORMAT} now" in Home(old_home).log_file("exchange").read_text()
    with Market(info.url, Home(old_home).read_keys()["operator"], patience_s=60) as market:
        assert market.balance("ann")["bought_nanos"] == 94_000_000_000
        assert market.job("job-1")["billed_nanos"] == 2_750_000
        market.set_team("bio", weight=2)
        market.move_member("ann", "bio")
        bill = until(lambda: market.invoice("job-1"), "the books")
        assert (bill["billed_nanos"], bill["billed_granted_nanos"]) == (2_750_000, 0)
    stop(old_home)
    after = list(read_journal(old_home / "journal"))
    assert after[: len(before)] == before, "the record is never rewritten"
    kinds = [event["type"] for one in after[len(before) :] for event in json.loads(one.payload)["events"]]
    assert kinds[0] == "journal_format"
    assert kinds.count("journal_format") == 1
    again = start(old_home, no_ray=True)
    with Market(again.url, Home(old_home).read_keys()["operator"]) as market:
        assert [row["team"] for row in market.teams() if row["team"]] == ["bio"]


def test_a_home_of_a_newer_torg_is_refused_and_left_alone(old_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old_home / "format.json").write_text('{"home": 4}')
    before = _files(old_home)
    told = f"the home {old_home} has format 4, and this torg reads up to {HOME_FORMAT}"
    remedy = "(use the torg that wrote it, or a newer one)"
    for argv in (["up", "--ray", "none"], ["billing", "--role", "operator"], ["books", "verify"]):
        assert run([*argv, "--home", str(old_home)]) == 3, argv
        assert f"torg: --home: {told} {remedy}" in capsys.readouterr().err
    assert run(["backup", str(old_home.with_name("b")), "--home", str(old_home)]) == 3
    assert told in capsys.readouterr().err
    assert _files(old_home) == before


def test_a_journal_of_a_newer_torg_is_refused_by_name(old_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open(old_home / "journal") as journal:
        events = [{"type": "journal_format", "format": 9, "version": "9.0"}]
        journal.append([json.dumps({"at_ms": 1, "events": events, "v": 1}, sort_keys=True, separators=(",", ":")).encode()])
        number = journal.records
    before = list(read_journal(old_home / "journal"))
    assert run(["up", "--ray", "none", "--home", str(old_home), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["remedy"]) == ("home_newer", "use the torg that wrote it, or a newer one")
    assert error["message"] == f"the journal has format 9 (from record {number} on), and this torg reads up to {JOURNAL_FORMAT}"
    assert list(read_journal(old_home / "journal")) == before
