"""Code that a customer brings and that cannot train: the job fails with the right reason, the traceback, and the change.

A real child runs it, the real course of a run drives it, a real market settles it; only Ray is left out (with Ray:
tests/cluster/test_course.py).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.square import USD, FakeProvider, Square, make_offer, make_spec
from tests.bad_input.conftest import Torg
from tests.bad_input.local_run import run_job, warm_worker

WORKLOAD = """
import os, time, torch
from trainers.workload import Workload

class Mine(Workload):
    def model(self):
        return torch.nn.Linear(4, 1)
    def batch(self, seed, step, worker):
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed + step + worker))
    def held_out(self):
        return [torch.ones(8, 4)]
    def loss(self, model, batch):
        {body}
        return model(batch).square().mean()
"""
FAILURES = [
    # what the file does                                                         reason        torg says
    ("import no_such_thing",                                                     "import",     "No module named 'no_such_thing'"),
    ("return model(batch).mean() * float('nan')",                                "nan",        "the loss is nan at step"),
    ("model.register_parameter('late', torch.nn.Parameter(torch.zeros(3)))",     "shape",      "late"),
    ("self.kept = [bytearray(b'x' * (64 << 20)) for _ in range(99)]",            "memory",     "memory than its limit|MiB are allowed"),
    ("while True: os.fork()",                                                    "exception",  "Operation not permitted"),
    ("while True: time.sleep(1)",                                                "hang",       "training round 1"),
]  # fmt: skip


def source_of(does: str) -> bytes:
    """The file that does it: at import, or in its loss."""
    if does.startswith("import"):
        return f"{does}\n{WORKLOAD.format(body='pass')}".encode()
    return WORKLOAD.format(body=does).encode()


@pytest.fixture(scope="module")
def machine(square: Square) -> Iterator[str]:
    """A region with one machine."""
    region = square.name("region")
    _, owner = square.newcomer("provider")
    provider = FakeProvider(owner, make_offer(square.name("offer"), region))
    yield region
    provider.close()


@pytest.mark.parametrize(("does", "reason", "says"), FAILURES, ids=[row[1] for row in FAILURES])
def test_the_job_fails_with_its_reason_and_the_rest_of_the_money_returns(
    square: Square, torg: Torg, machine: str, tmp_path: Path, does: str, reason: str, says: str
) -> None:
    _, ann = square.newcomer("customer", 5 * USD)
    job = square.name("job")
    workload = {"kind": "file", "digest": ann.upload(source_of(does)), "class_name": "Mine", "filename": "mine.py"}
    ann.submit_job(job, make_spec(machine, workload=workload, workers__min=1, workers__max=1))
    with warm_worker(tmp_path / "scratch") as worker:
        run_job(square, job, worker)

    failed = ann.job(job)
    assert (failed["state"], failed["reason"]) == ("failed", reason)
    [lease] = failed["leases"]
    assert (lease["reason"], lease["fault"]) == (reason, "customer")
    balance = ann.balance()
    assert balance["escrow_nanos"] == 0
    assert balance["wallet_nanos"] == 5 * USD - failed["billed_nanos"] > 4 * USD
    shown = torg("job", job, "--key", str(ann._wire._key))
    assert shown.code == 0
    assert f"failed – {reason}" in shown.out
    assert any(words in shown.out for words in says.split("|"))
    if reason in ("exception", "import"):
        assert 'File "mine.py", line' in shown.out, "where in the customer's own file"
        assert "�" not in shown.out
    assert torg("watch", job, "--key", str(ann._wire._key)).code == 1
