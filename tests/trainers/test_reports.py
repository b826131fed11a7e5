"""A worker's word for its work goes to the market when its lease's key has signed it, and no other does."""

from typing import Any

import pytest

from storage.meter_readings import new_meter_key
from storage.worker_statements import sign_statement, worker_statement
from trainers.actors.reports import round_report
from trainers.actors.roster import Worker
from trainers.round_decisions import RoundCommitted

PRIVATE, PUBLIC = new_meter_key()
INFO = {"round": 3, "loss": 1.5, "steps": 30, "tokens": 900, "contribution": "c" * 64}
DIGEST, OWN = "d" * 64, "e" * 64


def reported(key: str = PUBLIC, round: int = 3, after: str = DIGEST, steps: int = 30, lease: str = "lease-1") -> Any:
    """The words of round 3 by a worker that has signed this."""
    work = {**INFO, "lease": lease, "epoch": 7, "steps": steps}
    signature = sign_statement(worker_statement("job-1", 3, after, work), PRIVATE)
    merged = {"round": round, "digest": after, "contribution": "", "signature": signature}
    worker = Worker("lease-1", 7, 0, "p1", "w", None, info=dict(INFO), merged=merged, meter_key=key)
    done = RoundCommitted(3, 90, 180, DIGEST, 1, (0,), (0,), (), (), (), 1, "all")
    return round_report("job-1", done, [0], {0: worker}, "diloco", 0)["words"]


def test_a_signed_word_goes_to_the_market() -> None:
    (word,) = reported()
    assert (word["lease"], word["epoch"], word.get("parameters")) == ("lease-1", 7, None)
    assert reported(after=OWN)[0]["parameters"] == OWN, "members that never agree say whose parameters are theirs"


@pytest.mark.parametrize(
    "untrue", [{"key": ""}, {"key": "0" * 64}, {"round": 2}, {"steps": 31}, {"lease": "lease-2"}], ids=str
)
def test_any_other_word_is_left_out(untrue: dict[str, Any]) -> None:
    assert reported(**untrue) == []
