"""Tables that fit, colours that go away, documents with the promised fields."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from pyarrow import parquet

from cli.live import RunView
from cli.verbs.jobs import job_row
from tests.cli.conftest import Torg, on_a_terminal
from tests.cli.fake_market import Asked, FakeMarket
from tests.cli.samples import bill, job, offer

ESCAPE = "\x1b["


@pytest.fixture
def offers(market: FakeMarket) -> FakeMarket:
    found = [
        offer(
            "offer-a",
            provider="dear",
            price_nanos_per_gpu_hour=900_000_000,
            gpu="RTX4090",
            vram_gib=24,
            gpus=2,
            gpus_free=2,
        ),
        offer("offer-b", provider="cheap", region="us"),
        offer("offer-c", provider="gone", state="offline"),
    ]
    market.routes["GET /v1/offers"] = (200, {"items": found})
    return market


SELECTIONS = [
    # arguments                       offers, in order
    ([],                              ["offer-b", "offer-a"]),
    (["--order", "-price"],           ["offer-a", "offer-b"]),
    (["--order", "vram"],             ["offer-b", "offer-a"]),
    (["--all"],                       ["offer-b", "offer-c", "offer-a"]),
    (["--gpu", "rtx4090"],            ["offer-a"]),
    (["--gpu", "RTX4090:2"],          ["offer-a"]),
    (["--gpu", "RTX4090:3"],          []),
    (["--max-price", "0.30"],         ["offer-b"]),
    (["--region", "us,asia"],         ["offer-b"]),
    (["vram>=24"],                    ["offer-a"]),
    (["region in [us]", "price<0.5"], ["offer-b"]),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "ids"), SELECTIONS, ids=[" ".join(row[0]) or "plain" for row in SELECTIONS])
def test_offers_are_selected_and_ordered(torg: Torg, offers: FakeMarket, argv: list[str], ids: list[str]) -> None:
    assert [one["id"] for one in torg("offers", "--json", *argv).document] == ids


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_a_table_fits_its_terminal(
    torg: Torg, offers: FakeMarket, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = torg("offers").out
    assert max(len(line) for line in shown.splitlines()) <= columns
    assert "cheap" in shown
    assert "$0.90" in shown


def test_names_of_strangers_cannot_steer_the_terminal(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/offers"] = (200, {"items": [offer(provider="evil\x1b[2J[red]")]})
    shown = torg("offers").out
    assert "\x1b" not in shown
    assert "[red]" in shown


@pytest.mark.parametrize(("environment", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal_unless_unwanted(
    offers: FakeMarket, home: Path, environment: dict[str, str], colours: bool
) -> None:
    shown = on_a_terminal(
        ["offers"], {"TORG_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": "100"} | environment
    )
    assert "cheap" in shown
    assert (re.search(r"\x1b\[[0-9;]*m", shown) is not None) is colours


def test_piped_output_is_plain(torg: Torg, offers: FakeMarket) -> None:
    assert ESCAPE not in torg("offers").out


def test_a_job_for_people(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state="paused", reason="escrow_empty"))
    shown = torg("job", "job-1f2e3d4c5b").out
    for part in ("paused", "escrow_empty", "3 of 14", "4.2000 → 3.1000", "$0.01", "aurora", "4711"):
        assert part in shown


def test_nothing_is_said_twice_of_a_job_nor_in_the_wrong_number(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state="cancelled", reason="cancelled", detail="by customer"))
    assert "state    cancelled\n" in torg("job", "job-1f2e3d4c5b").out
    matched = {"reason": "matched", "detail": "1 workers"}
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(**matched))
    assert "1 workers" not in torg("job", "job-1f2e3d4c5b").out
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/explain"] = (200, {"job": "job-1f2e3d4c5b", "workers": 1, **matched})
    assert torg("explain", "job-1f2e3d4c5b").out.splitlines() == ["job: job-1f2e3d4c5b", "workers: 1", "reason: matched"]
    running = {"type": "job_state", "job": "job-1f2e3d4c5b", "state": "running", **matched}
    assert RunView("job-1f2e3d4c5b").fold({"at_ms": 0, "event": running}) == ["job-1f2e3d4c5b is running: matched: 1 worker"]


def test_a_loss_that_is_not_known_from_the_beginning_on_is_shown_as_far_as_it_is() -> None:
    assert job_row(job(loss_first=None))[4] == "3.100"
    assert job_row(job(loss_first=None, loss_last=None))[4] == "–"


def test_a_running_job_without_a_living_worker_waits_for_workers() -> None:
    gone, there = {"state": "ended"}, {"state": "active"}
    assert job_row(job(state="running", reason="matched", workers=[gone, there]))[8] == "matched"
    assert job_row(job(state="running", reason="matched", workers=[gone]))[8] == "waits for workers"
    assert job_row(job(state="running", reason="resumed", workers=[]))[8] == "resumed"


def test_deposit_keeps_its_id_and_its_exact_amount(torg: Torg, market: FakeMarket) -> None:
    market.routes["POST /v1/deposits"] = lambda asked: (201, asked.body | {"balance_nanos": asked.body["amount_nanos"]})
    assert torg("wallet", "deposit", "20.000000001", "--id", "d-1", "--json").document["amount_nanos"] == 20_000_000_001
    assert market.last("POST", "/v1/deposits").body == {
        "id": "d-1",
        "account": "customer",
        "amount_nanos": 20_000_000_001,
    }


def test_history_is_a_list(torg: Torg, market: FakeMarket) -> None:
    line = {
        "id": "t1",
        "at": "2026-11-22T10:00:00.000Z",
        "kind": "deposit",
        "amount_nanos": 5,
        "balance_nanos": 5,
        "job": None,
    }
    market.routes["GET /v1/transfers"] = (200, {"items": [line]})
    assert torg("wallet", "history", "--limit", "3", "--json").document == [line]
    assert market.last("GET", "/v1/transfers").query == {"limit": "3"}
    assert "2026-11-22 10:00:00" in torg("wallet", "history").out


def test_where_logs_begin_is_said_once(torg: Torg, market: FakeMarket) -> None:
    def logs(asked: Asked) -> tuple[int, object]:
        first = asked.query["after"] == "0"
        return 200, {"text": "later\n" if first else "", "next": 60, "over": True}

    market.routes["GET /v1/jobs/job-1/logs"] = logs
    assert torg("logs", "job-1", "--tail", "3", "--since", "2026-11-26T12:00:00Z").out == "later\n"
    first, second = (asked.query for asked in market.asked)
    assert (first["tail"], first["since_ms"]) == ("3", "1795694400000")
    assert "tail" not in second
    ran = torg("logs", "job-1", "--since", "last Tuesday")
    assert (ran.code, "--since" in ran.err, "10m, 2h" in ran.err) == (2, True, True)


def test_logs_end_where_the_text_ends(torg: Torg, market: FakeMarket) -> None:
    text = "one\ntwo\n"
    market.routes["GET /v1/jobs/job-1/logs"] = lambda asked: (
        200, {"text": text[int(asked.query["after"]):], "next": len(text), "over": False}
    )  # fmt: skip
    assert torg("logs", "job-1").out == text


def test_logs_follow_until_the_job_is_over(torg: Torg, market: FakeMarket) -> None:
    parts = ["a\n", "", "b\n"]

    def answer(asked: object) -> tuple[int, object]:
        told = len([one for one in market.asked if one.path.endswith("/logs")])
        return 200, {"text": parts[told - 1], "next": told, "over": told == len(parts)}

    market.routes["GET /v1/jobs/job-1/logs"] = answer
    assert torg("logs", "job-1", "-f").out == "a\nb\n"


def test_billing_asks_for_moments_and_groups(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/billing"] = (200, {"items": [bill()]})
    assert torg(
        "billing", "--json", "--by", "job,day", "--since", "2026-11-22", "--until", "2026-11-23T12:00Z"
    ).document == [bill()]
    assert market.last("GET", "/v1/billing").query == {
        "by": "job,day", "since": "2026-11-22T00:00:00.000Z", "until": "2026-11-23T12:00:00.000Z"
    }  # fmt: skip
    shown = torg("billing").out
    assert [part for part in ("aurora", "$0.005", "60.0 s") if part not in shown] == []


def test_billing_as_csv_on_stdout(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/billing"] = (200, {"items": [bill(), bill(provider="a,b")]})
    rows = list(csv.DictReader(io.StringIO(torg("billing", "--format", "csv").out)))
    assert [row["provider"] for row in rows] == ["aurora", "a,b"]
    assert rows[0]["charged_nanos"] == "5000000"


def test_billing_of_nothing_still_has_its_heading(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/billing"] = (200, {"items": []})
    assert torg("billing", "--format", "csv").out.startswith("job,provider,gpu,period_start")


def test_billing_as_parquet(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    market.routes["GET /v1/billing"] = (200, {"items": [bill()]})
    target = tmp_path / "bill.parquet"
    assert torg("billing", "--format", "parquet", "-o", str(target)).code == 0
    assert parquet.read_table(target).to_pylist() == [bill()]


def test_billing_into_a_folder_that_is_not_there(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    market.routes["GET /v1/billing"] = (200, {"items": [bill()]})
    assert torg("billing", "--format", "csv", "-o", str(tmp_path / "no" / "bill.csv")).code == 3


def test_sql_as_table_and_document(torg: Torg, market: FakeMarket) -> None:
    market.routes["POST /v1/sql"] = (200, {"columns": ["n", "who"], "rows": [[7, None]]})
    assert torg("sql", "SELECT 7", "--json").document["rows"] == [[7, None]]
    assert re.search(r"7\s+–", torg("sql", "SELECT 7").out)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_books_verify_ends_as_the_books_are(torg: Torg, market: FakeMarket, ok: bool, code: int) -> None:
    told = {
        "ok": ok,
        "records": 9,
        "head": "ab" * 32,
        "first_bad": None if ok else "record 4",
        "balanced": True,
        "projection_ok": True,
    }
    market.routes["GET /v1/books/verify"] = (200, told)
    ran = torg("books", "verify", "--json")
    assert (ran.code, ran.document) == (code, told)


def test_provider_verbs_find_offers_by_provider(torg: Torg, offers: FakeMarket) -> None:
    offers.routes["POST /v1/offers/offer-b/drain"] = (200, offer("offer-b", state="draining"))
    offers.routes["POST /v1/offers/offer-a/price"] = lambda asked: (200, offer("offer-a", **asked.body))
    offers.routes["POST /v1/offers/offer-b/relist"] = (200, offer("offer-b"))
    assert torg("provider", "drain", "cheap").code == 0
    assert torg("provider", "relist", "offer-b", "--json").document[0]["state"] == "open"
    assert torg("provider", "price", "offer-a", "0.75", "--json").document[0]["price_nanos_per_gpu_hour"] == 750_000_000
    ran = torg("provider", "withdraw", "nobody")
    assert (ran.code, "'nobody' is neither an offer that is listed" in ran.err) == (3, True)


def test_all_offers_are_not_sent_for_more_of_them(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/offers"] = (200, {"items": []})
    assert torg("offers").out == "No offer fits. `torg offers --all` shows the rest.\n"
    assert torg("offers", "--all").out == "No offer fits.\n"


def test_provider_verbs_find_offers_by_the_machines_name(torg: Torg, market: FakeMarket) -> None:
    listed = [offer("offer-a", provider="dear", name="ada"), offer("offer-b", provider="cheap", name="vm"), offer("offer-c", provider="dear", name="vm")]
    market.routes["GET /v1/offers"] = (200, {"items": listed})
    market.routes["POST /v1/offers/offer-a/price"] = lambda asked: (200, offer("offer-a", prices=[{"hours": "22:00-06:00"}]))
    assert torg("provider", "price", "ada", "0.75").out == "ada asks $0.75 per GPU-hour outside the hours that have a price of their own.\n"
    ran = torg("provider", "drain", "vm")
    assert (ran.code, "offer-b of cheap, offer-c of dear" in ran.err) == (3, True)


def test_a_market_without_offers_says_how_to_make_one(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/offers"] = (200, {"items": []})
    assert "`torg provide` makes one" in torg("provider", "ls").out


def test_lease_times_and_windows_are_set_and_shown(torg: Torg, offers: FakeMarket) -> None:
    window = {"begin_ms": 1_800_000_000_000, "end_ms": 1_800_003_600_000}
    shown = offer("offer-a", name="ada", min_lease_ms=60_000, max_lease_ms=28_800_000, maintenance=["02:00-06:00 sun"], maintenance_next=window)
    offers.routes["GET /v1/offers"] = (200, {"items": [shown]})
    offers.routes["POST /v1/offers/offer-a/lease-times"] = lambda asked: (200, shown | asked.body)
    assert torg("provider", "lease-times", "offer-a", "--min", "none", "--max", "4h", "--json").code == 0
    assert offers.asked[-1].body == {"min_lease_ms": None, "max_lease_ms": 14_400_000}
    said = "leases of at least 60 s; leases of at most 8 h 00 min; maintenance 2027-01-15T08:00:00.000Z to 2027-01-15T09:00:00.000Z"
    assert torg("provider", "maintenance", "offer-a", "04:00-05:00 mon", "2026-12-24T18:00/4h UTC", "--zone", "Europe/Berlin").out == f"offer-a: {said}.\n"
    assert offers.asked[-1].body == {"maintenance": ["04:00-05:00 mon Europe/Berlin", "2026-12-24T18:00/4h"]}
    assert torg("provider", "maintenance", "offer-a", "04:00-05:00", "--add").code == 0
    assert offers.asked[-1].body == {"maintenance": ["02:00-06:00 sun", "04:00-05:00"]}
    assert torg("provider", "maintenance", "offer-a", "--none").code == 0
    assert offers.asked[-1].body == {"maintenance": []}
    assert f"ada: {said.replace('; ', ', ')}" in torg("offers").out


def test_an_invite_round_trips(torg: Torg, market: FakeMarket) -> None:
    from cli.invites import read_invite

    market.routes["POST /v1/members"] = (201, {"member": "far", "role": "provider", "key": "secret"})
    line = torg("invite", "provider", "--name", "far").out
    found = read_invite(line.split()[-1])
    assert (found.url, found.key) == (market.url, "secret")


def signed_bundle(folder: Path, text: bytes | None = None) -> Path:
    """The bundle of the golden files, in a file of its own."""
    found = folder / "bundle.json"
    found.write_bytes(text if text is not None else (Path(__file__).parents[1] / "golden" / "bundle.json").read_bytes())
    return found


SIGNED_BY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


def test_verify_says_whose_signature_it_is(torg: Torg, tmp_path: Path) -> None:
    bundle = str(signed_bundle(tmp_path))
    ran = torg("verify", bundle, "--json")
    assert (ran.code, ran.document["signed_by"], ran.document["expected_key"]) == (0, SIGNED_BY, None)
    assert f"signed by the key {SIGNED_BY}" in torg("verify", bundle).out
    assert "the key that you named" in torg("verify", bundle, "--key", SIGNED_BY).out
    assert "the key that you named" in torg("verify", bundle, "--public-key", SIGNED_BY.upper()).out


def test_verify_refuses_the_signature_of_another_key(torg: Torg, home: Path, tmp_path: Path) -> None:
    bundle = str(signed_bundle(tmp_path))
    assert torg("verify", bundle, "--public-key", "0" * 64).code == 1
    assert torg("verify", bundle, "--public-key", "0x12").code == 2
    facts = json.loads((home / "market.json").read_text())
    (home / "market.json").write_text(json.dumps(facts | {"public_key": "1" * 64}))
    ran = torg("verify", bundle)
    assert ran.code == 1
    assert f"the market in {home}" in ran.out
    assert torg("verify", bundle, "--public-key", SIGNED_BY).code == 0, "what is named counts more"
    (home / "market.json").write_text(json.dumps(facts | {"public_key": SIGNED_BY}))
    assert "signed by this home's market" in torg("verify", bundle).out
    unsigned = json.loads(Path(bundle).read_bytes()) | {"signature": None}
    assert torg("verify", str(signed_bundle(tmp_path, json.dumps(unsigned).encode()))).code == 1


def test_verify_reads_no_bundle_that_two_readers_could_read_differently(torg: Torg, tmp_path: Path) -> None:
    golden = signed_bundle(tmp_path).read_bytes()
    twin = golden.replace(b'"body":', b'"body":{},"body":', 1)
    ran = torg("verify", str(signed_bundle(tmp_path, twin)), "--json")
    assert (ran.code, ran.document["error"]["code"]) == (1, "not_json")
    assert "twice" in ran.document["error"]["message"]


def test_machines_of_one_provider_are_told_apart(
    torg: Torg, market: FakeMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    market.routes["GET /v1/offers"] = (
        200,
        {"items": [offer("offer-a", name="attic"), offer("offer-b", name="cellar")]},
    )
    for words in (["offers"], ["provider", "ls"]):
        out = torg(*words).out
        assert "attic" in out
        assert "cellar" in out
    worker = {"id": "lease-000001", "provider": "aurora", "name": "attic", "pid": 4711, "state": "ended"}
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(workers=[worker]))
    assert re.search(r"lease-000001 +aurora +attic +4711 +ended", torg("job", "job-1f2e3d4c5b").out)


def test_a_payout_names_whom_and_what_is_left(torg: Torg, market: FakeMarket) -> None:
    answer = {"id": "p1", "account": "aurora", "amount_nanos": 500_000_000, "balance_nanos": 250_000_000}
    market.routes["POST /v1/payouts"] = (201, answer)
    ran = torg("wallet", "payout", "0.5", "--account", "aurora", "--id", "p1")
    assert ran.code == 0
    assert "aurora" in ran.out
    assert market.last("POST", "/v1/payouts").body == {"id": "p1", "account": "aurora", "amount_nanos": 500_000_000}
    assert market.last("POST", "/v1/payouts").key == "key-of-operator"
    assert torg("wallet", "payout", "0.5").code == 2


LISTS = [
    # what is asked          where it lies        what is said when there is none
    (["jobs"],               "/v1/jobs",          "torg submit"),
    (["offers"],             "/v1/offers",        "torg offers --all"),
    (["members", "ls"],      "/v1/members",       "No members"),
    (["members", "invites"], "/v1/invites",       "torg members invite"),
    (["teams", "ls"],        "/v1/teams",         "torg teams set"),
    (["secret", "ls"],       "/v1/secrets",       "torg secret set"),
    (["wallet", "history"],  "/v1/transfers",     "Nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "path", "said"), LISTS, ids=[" ".join(row[0]) for row in LISTS])
def test_a_list_of_nothing_says_so_to_people_and_is_a_list_to_programs(
    torg: Torg, market: FakeMarket, argv: list[str], path: str, said: str
) -> None:
    market.routes[f"GET {path}"] = (200, {"items": []})
    ran = torg(*argv)
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    assert said in ran.out
    assert torg(*argv, "--json").document == []


@pytest.mark.parametrize("name", ["", "../../etc", "a/b", ".", "..", "x" * 5_000])
def test_what_can_be_no_id_is_not_asked_for(torg: Torg, market: FakeMarket, name: str) -> None:
    ran = torg("explain", name)
    assert ran.code == 3
    assert f"{name[:64]!r} is no id" in ran.err
    assert "/v1/" not in ran.err
    assert len(ran.err) < 200
