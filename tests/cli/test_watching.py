"""`torg watch`, `torg metrics`, `torg retune`, and what `torg job` shows of training."""

import csv
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cli.arguments import megabytes
from cli.event_files import crc32c
from cli.live import RunView
from tests.cli.conftest import Ran, Torg, on_a_terminal
from tests.cli.fake_market import FakeMarket, stream
from tests.cli.samples import committed, ended, granted, job, state
from trainers.options import strategy_options

LIFE = (
    granted("lease-000001", "aurora"),
    granted("lease-000002", "borealis", 450_000_000),
    committed(1, "lease-000001", "lease-000002"),
    {"type": "round_evaluated", "job": "job-1f2e3d4c5b", "round": 1, "loss": 4.0},
    ended("lease-000002", "provider"),
    committed(2, "lease-000001", lost=("lease-000002",)),
    granted("lease-000003", "cumulus", 600_000_000, replaces="lease-000002"),
    committed(3, "lease-000001", "lease-000003"),
    {"type": "round_evaluated", "job": "job-1f2e3d4c5b", "round": 3, "loss": 3.0,
     "metrics": {"accuracy": 0.625, "[red] recall": 1.0}},
)  # fmt: skip


RETUNED = {"type": "job_retuned", "job": "job-1f2e3d4c5b", "tuning": 1, "id": "t1", "request_digest": "0" * 64,
           "strategy": {"name": "noloco", "inner_steps": 20}, "after_round": 3}  # fmt: skip
MANNER = {"strategy": "noloco", "tuning": 1, "attempts": 2, "late": [1], "warned": [{"slot": 2, "reason": "nan"}]}
SENT = {"sent_bytes": 1_500_000, "received_bytes": 1_400_000, "stall_ms": 40, "leased_ms": 2000, "trained_ms": 1800}
SEEN = (RETUNED, committed(4, "lease-000001", "lease-000003", manner=MANNER, **SENT))


@pytest.mark.parametrize(("last", "code"), [("done", 0), ("failed", 1), ("cancelled", 1)])
def test_watch_tells_the_life_and_ends_as_the_job_did(torg: Torg, market: FakeMarket, last: str, code: int) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state=last))
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/events"] = stream(*LIFE, state(last, "because"))
    ran = torg("watch", "job-1f2e3d4c5b")
    assert ran.code == code
    for part in ("borealis is lost (no reading for 3 s)", "without 1 lost", "cumulus replaces lease-000002",
                 "held-out loss 3.0000  [red] recall 1  accuracy 0.625", "1,000 tokens/s", f"is {last}: because"):  # fmt: skip
        assert part in ran.out


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_watch_prints_a_json_line_for_each_round_and_one_for_the_end(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state="done"))
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/events"] = stream(*LIFE, *SEEN, state("done"))
    *rounds, end = lines(torg("watch", "job-1f2e3d4c5b", "--json"))
    assert [(one["type"], one["round"], one["held_out_loss"]) for one in rounds] == [
        ("round", 1, 4.0), ("round", 2, None), ("round", 3, 3.0), ("round", 4, None)
    ]  # fmt: skip
    assert [one["metrics"].get("accuracy") for one in rounds] == [None, None, 0.625, None]
    page = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8").partition("## Lines")[2]
    assert [name for name in rounds[0] if f"`{name}`" not in page] == []
    last = rounds[-1]
    assert (last["strategy"], last["attempts"], last["late"], last["members"]) == ("noloco", 2, [1], 2)
    assert (last["sent_bytes"], last["sent_bytes_per_worker"], last["stall_ms"]) == (3_000_000, 1_500_000, 80)
    assert (last["leased_ms"], last["trained_ms"], last["goodput"]) == (2000, 1800, 0.9)
    assert last["warned"] == [{"slot": 2, "reason": "nan"}]
    assert sum(one["sent_bytes"] for one in last["workers"]) == last["sent_bytes"]
    assert len({one["lease"] for one in last["workers"]}) == 2
    assert (end["type"], end["state"], end["job"]) == ("end", "done", "job-1f2e3d4c5b")


def test_watch_tells_who_was_late_or_warned_and_what_was_sent(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state="done"))
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/events"] = stream(*LIFE, *SEEN, state("done"))
    out = torg("watch", "job-1f2e3d4c5b").out
    for part in (
        "retuned (1): noloco",
        "1.50 MB sent each",
        "late: slot 1",
        "merged at attempt 2",
        "slot 2 is warned: nan",
    ):
        assert part in out


def test_a_round_that_is_made_again_takes_the_place_of_the_lost_one() -> None:
    view = RunView("job-1")
    for number, record in enumerate((committed(1, "a"), committed(2, "a"), committed(3, "a"), committed(2, "b")), 1):
        view.fold({"number": number, "at_ms": number, "event": record})
    assert [one.round for one in view.rounds] == [1, 2]


def test_who_is_outbid_is_told_when_it_has_notice() -> None:
    view = RunView("job-1")
    noticed = {"type": "lease_noticed", "lease": "lease-1", "epoch": 1, "job": "job-1", "reason": "outbid", "notice_ms": 5_000}
    told = [view.fold({"at_ms": 1, "event": record}) for record in (noticed, granted("lease-1", "ada"), noticed)]
    assert told[0] == []
    assert told[2] == ["ada leaves within 5 s: another bid more for what an interruptible lease had"]
    assert view.happenings[-1] == told[2][0]


def test_after_a_retune_the_plan_follows_the_new_rounds() -> None:
    view = RunView("job-1")
    submitted = {"type": "job_submitted", "name": "n", "spec": {"rounds": 10, "steps": 200}, "budget_nanos": 1}
    for record in (submitted, committed(1, "a"), RETUNED | {"strategy": RETUNED["strategy"] | {"inner_steps": 40}}):
        view.fold({"number": 1, "at_ms": 1, "event": record})
    assert view.planned == 1 + -(-180 // 40)


def test_where_a_schedule_of_inner_steps_turns_is_told_once() -> None:
    view = RunView("job-1")
    strategy = {"name": "diloco", "inner_steps": 20, "inner_steps_later": 50, "later_from": 0.3}
    submitted = {"type": "job_submitted", "name": "n", "spec": {"rounds": 6, "steps": 200, "strategy": strategy}}
    told = [
        view.fold({"number": 1, "at_ms": 1, "event": record})[1:]
        for record in (submitted | {"budget_nanos": 1}, committed(2, "a"), committed(3, "a"), committed(4, "a"))
    ]
    assert told == [[], [], ["rounds from 4 on have 50 inner steps instead of 20"], []]


def test_metrics_are_written_as_tensorboard_reads_them(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    told = [{**one, "loss": loss, "at_ms": 1000 * one["round"]} for one, loss in ((LIFE[2], 4.0), (SEEN[1], None))]
    told[0]["metrics"] = {"accuracy": 0.625}
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/rounds"] = (200, {"items": told})
    argv = ("metrics", "job-1f2e3d4c5b", "--tensorboard", str(tmp_path / "tb"), "--csv", str(tmp_path / "rounds.csv"))
    document = torg(*argv, "--json").document
    assert [one["round"] for one in document["rounds"]] == [1, 4]
    assert torg(*argv).code == 0, "again: the same files"
    [events] = (tmp_path / "tb" / "job-1f2e3d4c5b").iterdir()
    first, one, four = records_of(events.read_bytes())
    assert b"brain.Event:2" in first
    assert scalar(one, b"torg/held_out_loss") == 4.0
    assert scalar(one, b"torg/metrics/accuracy") == 0.625
    assert b"torg/metrics" not in four
    assert scalar(four, b"torg/sent_bytes") == 3e6
    assert b"torg/held_out_loss" not in four
    rows = list(csv.DictReader((tmp_path / "rounds.csv").read_text().splitlines()))
    assert [(row["round"], row["strategy"]) for row in rows] == [("1", ""), ("4", "noloco")]
    assert [row["metrics.accuracy"] for row in rows] == ["0.625", ""]


def records_of(data: bytes) -> list[bytes]:
    """The TFRecords of a file, their lengths believed."""
    found = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def scalar(event: bytes, tag: bytes) -> float:
    """The simple_value behind a tag: one byte of its key, four of the float."""
    at = event.index(tag) + len(tag)
    assert event[at] == 2 << 3 | 5
    return float(struct.unpack_from("<f", event, at + 1)[0])


def test_the_checksum_is_crc_32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA, "RFC 3720, B.4"


def test_metrics_with_nowhere_to_go_say_so(torg: Torg) -> None:
    assert torg("metrics", "job-1").code == 2


DILOCO = strategy_options({"inner_steps": 20})


def test_retune_sends_what_was_said_and_shows_the_difference(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/jobs/job-1"] = (200, job("job-1", strategy=DILOCO))
    after = job("job-1", strategy=strategy_options({"name": "noloco", "inner_steps": 20}))
    market.routes["POST /v1/jobs/job-1/retune"] = (201, after)
    dry = torg("retune", "job-1", "--strategy", "noloco", "--set", "beta=0.8", "--dry-run", "--json").document
    assert (dry["strategy"]["inner_steps"], dry["strategy"]["beta"]) == (20, 0.8)
    assert dry["changes"]["outer_lr"] == [0.7, None]
    assert [one.method for one in market.asked] == ["GET"], "a dry run sends nothing"
    ran = torg("retune", "job-1", "--strategy", "noloco", "--set", "beta=0.8", "--id", "t1")
    assert ran.code == 0
    assert "diloco → noloco" in ran.out
    sent = market.last("POST", "/v1/jobs/job-1/retune").body
    assert sent == {"id": "t1", "strategy": "noloco", "options": {"beta": 0.8}}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--strategy", "nolocco"], "did you mean noloco?"),
        (["--set", "outer_lr=-1"], "strategy.outer_lr"),
        (["--set", "alpha=0.5"], "strategy.alpha"),
        (["--set", "codec=int9"], "did you mean int8?"),
        (["--set", "codec"], "NAME=VALUE"),
        (["--set", "codec=int8", "--set", "codec=fp4"], "twice"),
        ([], "nothing to change"),
    ],
)
def test_a_retune_that_cannot_be_is_a_usage_error(torg: Torg, market: FakeMarket, argv: list[str], named: str) -> None:
    market.routes["GET /v1/jobs/job-1"] = (200, job("job-1", strategy=DILOCO))
    ran = torg("retune", "job-1", *argv, "--json")
    assert ran.code == 2
    assert named in ran.err
    assert [one for one in market.asked if one.method == "POST"] == []


def test_a_job_shows_how_it_trains_and_what_it_was_retuned_to(torg: Torg, market: FakeMarket) -> None:
    sums = {"tokens_per_s": 1234.0, "goodput": 0.9, "sent_bytes": 2_000_000}
    tunings = [
        {"tuning": 1, "id": "t1", "strategy": {"name": "noloco"}, "asked_ms": 1, "after_round": 4, "first_round": None}
    ]
    market.routes["GET /v1/jobs/job-1"] = (200, job("job-1", strategy=DILOCO, training=sums, tunings=tunings))
    shown = torg("job", "job-1").out
    for part in ("diloco int8, 20 steps", "1,234 tokens/s, goodput 90%, 2.00 MB sent", "noloco from the next boundary"):
        assert part in shown
    turning = DILOCO | {"inner_steps_later": 50, "later_from": 0.25}
    market.routes["GET /v1/jobs/job-1"] = (200, job("job-1", strategy=turning, training=sums, spec={"steps": 200}))
    assert "diloco int8, 20 steps, 50 from step 50 on" in torg("job", "job-1").out


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1_840, "1.84 kB"), (12_345_678, "12.3 MB"), (10**12, "1000 GB")]
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert megabytes(size) == shown


def test_watch_draws_a_live_picture_on_a_terminal(market: FakeMarket, home: Path) -> None:
    market.routes["GET /v1/jobs/job-1f2e3d4c5b"] = (200, job(state="done"))
    market.routes["GET /v1/jobs/job-1f2e3d4c5b/events"] = stream(*LIFE, state("done"))
    shown = on_a_terminal(
        ["watch", "job-1f2e3d4c5b"], {"TORG_HOME": str(home), "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    )
    for part in ("lost", "cumulus", "held-out loss 4.000 → 3.000", "round 3/14", "held-out loss by round", "1,000",
                 "accuracy", "0.625", "[red] recall"):  # fmt: skip
        assert part in shown
