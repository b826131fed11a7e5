"""Secrets in the exchange: names and tokens only, for one's own jobs and for the machine that runs them."""

from __future__ import annotations

import pytest

from market.commands import CancelJob, EndLease, RemoveSecret, SetSecret, SubmitJob
from tests.market.scene import Scene
from tests.market.test_batch import make_spec


def submit(*names: str) -> SubmitJob:
    spec = make_spec()
    return SubmitJob("job-1", {**spec, "command": {**spec["command"], "secrets": list(names)}}, "ann")


def test_a_job_that_names_a_secret_nobody_set_is_refused_before_money_is_held() -> None:
    scene = Scene()
    scene.offer()
    scene.do(SetSecret("OTHERS", "t0", "bob"))
    for name in ("MINE", "OTHERS"):
        refused = scene.refused(submit(name))
        assert (refused.code, refused.field, refused.remedy) == (
            "secret_unknown",
            "command.secrets",
            f"torg secret set {name}",
        )
    assert not scene.of_type("transfer") or scene.balances().get("escrow:job-1", 0) == 0


@pytest.mark.parametrize("name", ["", "HOME", "TORG_KEY", "a b", "A=B", "1A", "A\n", "x" * 200])
def test_names_are_those_of_variables_that_torg_does_not_set(name: str) -> None:
    scene = Scene()
    assert scene.refused(SetSecret(name, "t", "ann")).field == "name"
    scene.offer()
    assert scene.refused(submit(name)).field == "command.secrets"


def test_the_machine_that_runs_the_job_gets_the_tokens_of_now_and_nobody_else_does() -> None:
    scene = Scene()
    scene.offer()
    scene.offer("offer-2", "p2")
    for name, token in (("A", "t1"), ("B", "t2"), ("A", "t3")):
        scene.do(SetSecret(name, token, "ann"))
    scene.do(submit("A"))
    scene.clear()
    [lease] = scene.live()
    found = scene.exchange.secrets_for_lease(lease["id"], lease["epoch"], lease["provider"])
    assert found == ("ann", {"A": "t3"})
    other = next(name for name in ("p1", "p2") if name != lease["provider"])
    assert scene.exchange.secrets_for_lease(lease["id"], lease["epoch"], other) is None
    assert scene.exchange.secrets_for_lease(lease["id"], lease["epoch"] + 1, lease["provider"]) is None
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    scene.do(EndLease(lease["id"], lease["epoch"], "drained", "", lease["provider"]))
    assert scene.exchange.secrets_for_lease(lease["id"], lease["epoch"], lease["provider"]) is None


def test_what_an_open_job_names_stays_until_it_is_over() -> None:
    scene = Scene()
    scene.offer()
    scene.do(SetSecret("A", "t1", "ann"))
    scene.do(submit("A"))
    refused = scene.refused(RemoveSecret("A", "ann"))
    assert (refused.code, "job-1" in refused.message) == ("secret_in_use", True)
    assert scene.exchange.secrets_of("ann")[0]["used_by"] == ["job-1"]
    scene.do(CancelJob("job-1", "ann"))
    scene.do(RemoveSecret("A", "ann"))
    assert scene.exchange.secrets_of("ann") == []
    assert scene.exchange.named_secrets() == []
    assert scene.refused(RemoveSecret("A", "ann")).status == 404
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_providers_have_none() -> None:
    scene = Scene()
    scene.offer()
    assert scene.refused(SetSecret("A", "t", "p1")).status == 403
