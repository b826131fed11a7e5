"""A market whose disk is full: new work is refused with one line, a job that trains goes on, and nothing is lost."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from market.actors.door import HomeDoor
from market.client import Market
from tests.api.square import USD, FakeProvider, FakeRun, Square, digest, make_offer, make_spec, until
from tests.bad_input.conftest import Torg
from tests.bad_input.local_run import run_job, warm_worker
from trainers.actors.outbox import Outbox


@contextmanager
def full(square: Square, room_bytes: int) -> Iterator[None]:
    """No file of the exchange may grow beyond its newest journal segment and `room_bytes` (a real EFBIG)."""
    pid = int(square.local("operator").status()["exchange_pid"])
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (square.newest_segment_bytes() + room_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def healed(square: Square) -> None:
    operator = square.local("operator")
    until(lambda: not operator.status()["disk_full"], "the disk takes writes again")
    assert operator.verify_books()["ok"]


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "text.bin").write_bytes(os.urandom(1 << 20))
    made: dict[str, Any] = {
        "name": "mine", "workload": "byte_lm", "data": "none", "steps": 24, "wait": True,
        "workers": {"gpu": ["cpu"], "region": ["elsewhere"]},
        "limits": {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1.0},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(made))
    (tmp_path / "with-data.yaml").write_text(yaml.safe_dump(made | {"data": "./text.bin"}))
    return tmp_path / "job.yaml"


def test_no_room_for_the_journal_refuses_work_and_loses_nothing(square: Square, torg: Torg, job_file: Path) -> None:
    square.local("operator").deposit("before", "customer", 5 * USD)
    before = square.local("customer").balance()
    with full(square, 50):
        deposit = torg("wallet", "deposit", "3", "--id", "while-full", "--json")
        submit = torg("submit", str(job_file), "-y", "--id", "job-while-full", "--json")
        assert torg("wallet", "balance", "--json").code == 0, "reads go on"
        assert square.local("customer").balance() == before
    for ran in (deposit, submit):
        assert (ran.code, ran.error["code"]) == (3, "disk_full")
        assert "disk full" in ran.err
    healed(square)
    assert torg("wallet", "deposit", "3", "--id", "while-full", "--json").code == 0, "the same again is the first"
    assert square.local("customer").balance()["wallet_nanos"] == before["wallet_nanos"] + 3 * USD
    assert torg("job", "job-while-full").code == 3


def test_no_room_for_uploads_refuses_the_job_before_money_moves(square: Square, torg: Torg, job_file: Path) -> None:
    square.local("operator").deposit("for-data", "customer", USD)
    before = square.local("customer").balance()
    with full(square, 300_000):
        ran = torg("submit", str(job_file.with_name("with-data.yaml")), "-y", "--json")
    assert (ran.code, ran.error["code"]) == (3, "disk_full")
    assert square.local("customer").balance() == before
    healed(square)


def test_what_a_run_reports_while_the_journal_is_full_is_told_when_there_is_room(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    name, ann = square.newcomer("customer", 6 * USD)
    _, owner = square.newcomer("provider")
    machine = FakeProvider(owner, make_offer(square.name("offer"), region))
    try:
        ann.submit_job(job, make_spec(region, workers__min=1, workers__max=1))
        [lease] = FakeRun(square.local("plane"), job).workers(1)
        outbox = Outbox(job, os.getpid(), HomeDoor(square.url, str(square.home.root)))
        member = {"lease": lease["id"], "epoch": lease["epoch"], "slot": 0, "provider": lease["provider"], "loss": 3.0,
                  "steps": 30, "tokens": 500, "leased_ms": 10**9, "trained_ms": 10**9, "bytes": 5,
                  "contribution": digest("Δ")}  # fmt: skip
        with full(square, 50):
            until(lambda: fills(square, name), "no room is left")
            for number in (1, 2):
                body = {"job": job, "round": number, "step": 30 * number, "digest": digest(f"θ{number}"),
                        "reason": "all", "duration_ms": 20, "lost": [], "members": [member]}  # fmt: skip
                outbox.put("round", body)
            until(lambda: outbox.away, "the run has heard that the market cannot take it")
            assert ann.job(job)["rounds_committed"] == 0
        assert outbox.wait_empty(60)
        healed(square)
        assert [one["round"] for one in ann.rounds(job)] == [1, 2]
        ann.cancel_job(job)
    finally:
        machine.close()


def fills(square: Square, account: str) -> bool:
    """Whether one more deposit finds no room."""
    with Market(square.url, square.home.read_keys()["operator"], patience_s=0) as operator:
        try:
            operator.deposit(square.name("filling"), account, 1)
        except Exception as refused:  # noqa: BLE001
            return getattr(refused, "code", "") == "disk_full"
    return False


LARGE = """
import torch
from trainers.workload import Workload

class Mine(Workload):
    def model(self):
        return torch.nn.Linear(1000, 200)
    def batch(self, seed, step, worker):
        return torch.randn(2, 1000, generator=torch.Generator().manual_seed(seed + step + worker))
    def held_out(self):
        return [torch.ones(2, 1000)]
    def loss(self, model, batch):
        return model(batch).square().mean()
"""


def test_no_room_for_a_checkpoint_stops_no_training_and_the_next_one_is_kept(square: Square, tmp_path: Path) -> None:
    """The state has 1.6 MB, and files of the market only 0.5: rounds go on, undurable and uncharged, until there is room."""
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    _, owner = square.newcomer("provider")
    machine = FakeProvider(owner, make_offer(square.name("offer"), region))
    try:
        workload = {"kind": "file", "digest": ann.upload(LARGE.encode()), "class_name": "Mine", "filename": "mine.py"}
        spec = make_spec(region, workload=workload, workers__min=1, workers__max=1, steps=24, rounds=6)
        spec["strategy"]["inner_steps"] = 4
        ann.submit_job(job, spec)
        seen: list[dict[str, Any]] = []

        def between(done: int) -> None:
            if done == 4:
                until(lambda: ann.job(job)["rounds_committed"] >= 3, "rounds are reported")
                seen.append(ann.job(job))
                room.close()

        room = Room(square)
        with warm_worker(tmp_path / "scratch") as worker:
            halt = run_job(square, job, worker, between)
    finally:
        room.close()
        machine.close()
    assert (seen[0]["state"], seen[0]["round_durable"], seen[0]["billed_nanos"]) == ("running", 0, 0)
    assert halt.state == "done"
    done = ann.job(job)
    assert (done["state"], done["rounds_committed"], done["round_durable"]) == ("done", 6, 6)
    assert done["billed_nanos"] > 0
    assert done["escrow_nanos"] == 0
    healed(square)


class Room:
    """`full` that ends when it is told to, once."""

    def __init__(self, square: Square) -> None:
        self._limit = full(square, 500_000)
        self._limit.__enter__()
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._limit.__exit__(None, None, None)
