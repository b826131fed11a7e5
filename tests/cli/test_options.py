"""Global options anywhere on the line, exit codes, and errors as one line and one document."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.arguments import Globals, exact_usd, hoist, usd
from cli.settings import read_settings
from tests.cli.conftest import Torg
from tests.cli.fake_market import FakeMarket, problem
from tests.cli.samples import job, offer

HEAVY = ("ray", "torch", "duckdb", "pydantic", "httpx2", "numpy", "yaml", "pyarrow")


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "jobs"],
        ["jobs", "--json"],
        ["--url=http://m", "jobs", "--key", "k"],
        ["jobs", "--url", "http://m", "--key=k", "--json", "--home", "h"],
    ],
)
def test_global_options_leave_only_the_verb(argv: list[str]) -> None:
    assert hoist(argv)[1] == ["jobs"]


def test_global_options_are_read() -> None:
    named, rest = hoist(["sql", "--url=http://m", "SELECT 1", "--key", "k", "--home", "h", "--json"])
    assert named == Globals(as_json=True, url="http://m", key="k", home="h")
    assert rest == ["sql", "SELECT 1"]


def test_nothing_after_two_dashes_is_an_option() -> None:
    named, rest = hoist(["sql", "--", "--json"])
    assert not named.as_json
    assert rest == ["sql", "--", "--json"]


def test_the_line_wins_over_the_environment_and_empty_counts_as_unset() -> None:
    environment = {"TORG_HOME": "/h", "TORG_URL": "http://e", "TORG_KEY": "", "NO_COLOR": "1"}
    made = read_settings(Globals(url="http://line"), environment, terminal=True)
    assert (made.home, made.url, made.key, made.color) == (Path("/h"), "http://line", None, False)


@pytest.mark.parametrize("line", [["jobs", "--json"], ["--json", "jobs"], ["--json", "offers"], ["offers", "--json"]])
def test_json_is_one_document(torg: Torg, market: FakeMarket, line: list[str]) -> None:
    market.routes = {"GET /v1/jobs": (200, {"items": [job()]}), "GET /v1/offers": (200, {"items": [offer()]})}
    ran = torg(*line)
    assert ran.code == 0
    assert len(ran.document) == 1
    assert ran.err == ""


ENDS = [
    # command line                                     code  error code         the line names
    (["offer"],                                        2, "usage",              "offers"),
    (["offers", "--nonsense"],                         2, "usage",              "--nonsense"),
    (["offers", "--gpu", "A100:none"],                 2, "usage",              "A100:none"),
    (["offers", "--order", "colour"],                   2, "bad_order",          "colour"),
    (["offers", "vram>lots"],                          2, "bad_filter",         "lots"),
    (["offers", "--max-price", "cheap"],               2, "not_a_number",       "--max-price"),
    (["job"],                                          2, "usage",              "JOB"),
    (["jobs", "--role", "king"],                       2, "usage",              "operator"),
    (["--url"],                                        2, "usage",              "--url"),
    (["wallet", "deposit", "NaN"],                     2, "not_a_number",       "NaN"),
    (["wallet", "deposit", "0"],                       2, "out_of_range",       "AMOUNT"),
    (["wallet", "deposit", "--", "-5"],                2, "negative",           "-5"),
    (["wallet", "deposit", "0.0000000001"],            2, "too_many_decimals",  "0.0000000001"),
    (["wallet", "payout", "0", "--account", "p"],      2, "out_of_range",       "AMOUNT"),
    (["wallet", "deposit", "1e30"],                    2, "not_a_number",       "1e30"),
    (["wallet", "history", "--limit", "0"],            2, "usage",              "--limit"),
    (["resume", "job-1", "--add-budget", "0"],         2, "out_of_range",       "--add-budget"),
    (["billing", "--by", "jobb"],                      2, "usage",              "did you mean job?"),
    (["billing", "--format", "xml"],                   2, "usage",              "parquet"),
    (["billing", "--format", "parquet"],               2, "usage",              "-o FILE"),
    (["billing", "--since", "tomorrowish"],            2, "not_an_instant",     "tomorrowish"),
    (["billing", "--since", "2026-11-23", "--until", "2026-11-22"], 2, "usage", "--since"),
    (["logs", "job-1", "-f"],                          2, "usage",              "--follow"),
    (["verify", "missing.json"],                       2, "no_such_file",       "missing.json"),
    (["provide", "--price", "0"],                      2, "out_of_range",       "--price"),
    (["provide", "--price", "-1"],                     2, "negative",           "-1"),
    (["provide", "--price", "NaN"],                    2, "not_a_number",       "NaN"),
    (["provide", "--price", "1000000"],                2, "out_of_range",       "$1,000"),
    (["provide", "--price", "1", "--floor", "2"],      2, "floor_above_price",  "--floor"),
    (["provide", "--price", "1", "--gpus", "cpu:0"],   2, "usage",              "cpu:0"),
    (["provide", "--price", "1", "--gpus", "cpu:1000"], 3, "hardware_mismatch", "--gpus: the offer has 1000 cores, and the machine "),
    (["provide", "--price", "1", "--share", "x"],      2, "usage",              "NAME=VALUE"),
    (["provide", "--price", "1", "--share", "x=nowhere"], 2, "no_such_folder",  "nowhere"),
    (["provide", "--price", "1", "--invite", "torg1_e30"], 2, "bad_invite",     "--invite"),
    (["provide", "--price", "1", "--name", "a/b"],     2, "usage",              "a/b"),
    (["provide", "--price", "1", "--when", "never"],   2, "usage",              "--when"),
    (["provide", "--price", "1", "--idle-for", "5m"],  2, "usage",              "--when idle"),
    (["provide", "--price", "1", "--when", "idle", "--idle-for", "5"], 2, "not_a_duration", "--idle-for"),
    (["provide", "--price", "1", "--when", "idle", "--idle-load", "2"], 2, "usage", "--idle-load"),
    (["provide", "--price", "1", "--not-between", "8-18"], 2, "bad_hours",      "08:00-18:00"),
    (["provide", "--price", "1", "--until", "noon"],   2, "not_an_instant",     "--until"),
    (["provide", "--price", "1", "--for", "5s"],       2, "out_of_range",       "notice"),
    (["provide", "--price", "1", "--for", "1h", "--until", "18:00"], 2, "usage", "--for"),
    (["provide", "--price", "1", "--zone", "UTC"],     2, "usage",              "--price-between"),
    (["provide", "--price", "1", "--price-between", "22:00-06:00=0.2", "--zone", "Mars/Base"], 2, "usage", "Mars/Base"),
    (["provide", "--price", "1", "--price-between", "22-6=0.2"], 2, "bad_hours", "08:00-18:00"),
    (["provide", "--price", "1", "--price-between", "22:00-06:00=-1"], 2, "negative", "--price-between"),
    (["provide", "--price", "1", "--allow", "ann,,bob"], 2, "usage",            "--allow"),
    (["provide", "--price", "1", "--max-units-per-customer", "0"], 2, "usage",  "--max-units-per-customer"),
    (["provide", "--price", "1", "--max-hours-per-customer", "0"], 2, "out_of_range", "--max-hours-per-customer"),
    (["provide", "--price", "1", "--max-lease", "5s"], 2, "out_of_range",       "notice"),
    (["provide", "--price", "1", "--min-lease", "2h", "--max-lease", "1h"], 2, "out_of_range", "--min-lease"),
    (["provide", "--price", "1", "--maintenance", "sunday"], 2, "bad_window",   "08:00-18:00"),
    (["provide", "--price", "1", "--maintenance", "00:00-24:00"], 2, "bad_window", "no time between"),
    (["provide", "--price", "1", "--price-between", "22:00-06:00"], 2, "usage", "HOURS=USD"),
    (["provider", "lease-times", "ada"],               2, "usage",              "--max"),
    (["provider", "lease-times", "ada", "--min", "2h", "--max", "1h"], 2, "out_of_range", "--min 2h is above --max 1h"),
    (["provider", "lease-times", "ada", "--max", "0s"], 2, "out_of_range",      "--max 0s is out of range"),
    (["provider", "price", "ada"],                     2, "usage",              "torg: Missing argument 'USD' (see `torg provider price --help`)"),
    (["wallet", "deposit", "0"],                       2, "out_of_range",       "(allowed: above $0 to"),
    (["wallet", "history", "--limit", "many"],         2, "usage",              "--limit 'many' is not allowed: input should be a valid integer"),
    (["provider", "maintenance", "ada"],               2, "usage",              "--none"),
    (["demo", "--data", "nowhere"],                    2, "no_such_file",       "nowhere"),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["provide", "up", "clear", "simulate"])
def test_a_narrow_help_page_has_its_words_whole(verb: str) -> None:
    page = subprocess.run([sys.executable, "-m", "cli", verb, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=True)
    assert max(len(line) for line in page.stdout.splitlines()) <= 80
    assert not re.search(r"\w…", page.stdout.replace("TEAM:W,…", ""))


@pytest.mark.parametrize(("argv", "code", "error", "named"), ENDS, ids=[" ".join(row[0]) for row in ENDS])
def test_bad_input_ends_with_one_line_and_one_document(
    torg: Torg, argv: list[str], code: int, error: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = torg("--json", *argv)
    assert ran.code == code
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("torg: ")
    assert named in ran.err
    assert set(ran.document) == {"error"}
    assert set(ran.document["error"]) == {"code", "message", "field", "remedy"}
    assert ran.document["error"]["code"] == error


def test_a_market_that_is_not_up_is_exit_4(torg: Torg, home: Path) -> None:
    (home / "market.json").unlink()
    assert torg("jobs").code == 4
    ran = torg("jobs", "--json", "--url", "http://127.0.0.1:9", "--key", "k")
    assert ran.code == 4
    assert ran.document["error"]["code"] == "market_unreachable"
    assert "torg up" in ran.err


def test_what_may_have_been_done_is_asked_for_again_by_its_id(torg: Torg, market: FakeMarket) -> None:
    remedy = "ask again with the same id; it goes on by itself"
    market.routes["POST /v1/deposits"] = problem(503, "mirror_away", "a mirror of the journal is away", remedy=remedy)
    ran = torg("wallet", "deposit", "5")
    made = market.last("POST", "/v1/deposits").body["id"]
    assert (ran.code, f"(ask again with --id {made}, which counts once; it goes on by itself)" in ran.err) == (3, True)
    ran = torg("wallet", "deposit", "5", "--id", "d-1", "--url", "http://127.0.0.1:9", "--key", "k")
    assert (ran.code, "(`torg up` starts one; ask again with --id d-1, which counts once)" in ran.err) == (4, True)


def test_a_url_that_is_none_is_exit_4(torg: Torg) -> None:
    assert torg("jobs", "--url", "market", "--key", "k").code == 4


def test_a_refusal_of_the_market_is_exit_3_with_its_fields(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-9"] = problem(404, "unknown_job", "no job job-9", "job", "`torg jobs` lists them")
    ran = torg("job", "job-9", "--json")
    assert ran.code == 3
    assert ran.document["error"] == {
        "code": "unknown_job", "message": "no job job-9", "field": "job", "remedy": "`torg jobs` lists them"
    }  # fmt: skip
    assert ran.err == "torg: no job job-9 (`torg jobs` lists them)\n"


def test_a_market_that_breaks_is_exit_1(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs"] = (500, {"detail": "boom"})
    assert torg("jobs").code == 1


def test_a_wrong_key_is_exit_3(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs"] = problem(401, "wrong_key", "this key is not known", "key")
    assert torg("jobs", "--key", "nonsense").code == 3
    assert market.last("GET", "/v1/jobs").key == "nonsense"


def test_local_keys_are_never_sent_to_another_market(torg: Torg) -> None:
    with FakeMarket(routes={"GET /v1/jobs": (200, {"items": []})}) as stranger:
        ran = torg("jobs", "--url", stranger.url)
        assert ran.code == 3
        assert "TORG_KEY" in ran.err
        assert stranger.asked == []


def test_each_verb_takes_its_role(torg: Torg, market: FakeMarket) -> None:
    deposited = {"id": "d", "amount_nanos": 20_000_000_000, "balance_nanos": 20_000_000_000}
    market.routes = {"GET /v1/jobs": (200, {"items": []}), "POST /v1/deposits": (201, deposited)}
    assert torg("jobs").code == 0
    assert torg("wallet", "deposit", "20").code == 0
    assert [one.key for one in market.asked] == ["key-of-customer", "key-of-operator"]


@pytest.mark.parametrize(
    "argv",
    [["offers"], ["jobs"], ["billing"], ["prices"], ["offers", "--json"], ["jobs", "--role", "operator"]],
    ids=" ".join,
)
def test_a_typed_command_imports_nothing_heavy(argv: list[str], home: Path, market: FakeMarket) -> None:
    balance = {"account": "customer", "wallet_nanos": 1, "escrow_nanos": 0, "earnings_nanos": 0, "balance_nanos": 1}
    market.routes = {
        "GET /v1/jobs": (200, {"items": [job()]}), "GET /v1/offers": (200, {"items": [offer()]}),
        "GET /v1/prices": (200, {"since_ms": 0, "until_ms": 1, "items": [], "series": []}),
        "GET /v1/billing": (200, {"items": []}), "GET /v1/balance": (200, balance),
    }  # fmt: skip
    program = (
        "import json, sys; from cli.main import run; code = run(sys.argv[1:]);"
        f"print(json.dumps([code, sorted(name for name in {HEAVY!r} if name in sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        env=os.environ | {"TORG_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stderr) == [0, []]


def test_help_names_every_verb(torg: Torg) -> None:
    from cli.main import VERBS

    ran = torg("--help")
    assert ran.code == 0
    assert [verb for verb in VERBS if f" {verb} " not in ran.out] == []


def test_money_for_people_and_for_invoices() -> None:
    assert [usd(n) for n in (0, 450_000_000, 5_000_000_000, 1_234, 12_345_678, -2_500_000_000, 123_456_789_012)] == [
        "$0.00", "$0.45", "$5.00", "$0.000001", "$0.0123", "-$2.50", "$123.46",
    ]  # fmt: skip
    assert exact_usd(-1_000_000_001) == "-$1.000000001"


def test_what_stands_behind_two_dashes_is_the_commands() -> None:
    from cli import fast_lane
    from cli.verbs import inside

    found = fast_lane.match(inside.exec_, ["job-1", "-i", "--timeout", "5m", "--", "ls", "--", "-l"])
    assert found == {"job_id": "job-1", "interactive": True, "timeout": "5m", "command": ["ls", "--", "-l"]}
    for words in (["job-1", "ls", "-l"], ["job-1"], ["job-1", "--"], ["--help"]):
        assert fast_lane.match(inside.exec_, words) is None, "typer says what is wrong"


def test_an_exec_imports_nothing_heavy() -> None:
    program = f"import sys, cli.main, cli.verbs.inside, cli.remote, cli.quick; print([one for one in {HEAVY} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
