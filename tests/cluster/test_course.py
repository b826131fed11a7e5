"""A job from submission to its model, with nobody dying."""

from __future__ import annotations

import pytest

from tests.cluster.plaza import Plaza

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def test_a_job_trains_to_done_and_the_loss_falls(plaza: Plaza) -> None:
    job = plaza.submit()
    done = plaza.wait_state(job, "done")

    assert done["rounds_committed"] == 12
    assert done["loss_last"] < done["loss_first"]
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, 13))
    assert len({one["digest"] for one in rounds}) == 12
    assert all(len(one["members"]) == 2 and not one["lost"] for one in rounds)
    assert {lease["provider"] for lease in done["leases"]} == {"ada", "ben"}, "the two cheapest"
