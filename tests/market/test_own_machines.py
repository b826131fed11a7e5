"""Jobs that run on their customer's own machines alone: no price, no budget, and only where both sides say so."""

from __future__ import annotations

from typing import Any

import pytest

from market.clearing import HARDWARE, Reason
from market.commands import AddBudget, CancelJob, Deposit, SetLimits, SubmitJob
from market.form_errors import FormError
from market.forms import digest_only, parse_job, resolve
from market.jobs import _FIELD_OF
from market.outcomes import Refusal
from market.owner_terms import OwnerTerms
from tests.market.scene import USD, Scene, make_spec

ANNS = OwnerTerms(own=("ann",))
FREE: dict[str, Any] = {"limits__max_price_nanos_per_gpu_hour": 0, "limits__budget_nanos": 0}


def free_spec(*providers: str, workers: int = 1, **changes: Any) -> dict[str, Any]:
    spec = make_spec(workers__min=workers, workers__max=workers, **FREE, **changes)
    spec["workers"]["own"] = list(providers)
    return spec


def test_an_empty_wallet_runs_on_its_own_machine_from_the_plan_to_the_end() -> None:
    scene = Scene(funds_nanos=0)
    scene.offer("offer-0", "p2", usd=0.1)
    scene.offer("offer-1", "p1", usd=0.5, gpus=2, terms=ANNS)
    plan = scene.exchange.quote(free_spec("p1", workers=2), "ann", scene.now_ms)
    assert not isinstance(plan, Refusal)
    assert (plan["feasible"], plan["refusal"], plan["price_nanos_per_hour"]) == (True, None, 0)
    assert [one["offer"] for one in plan["candidates"]] == ["offer-1", "offer-1"]
    scene.do(SubmitJob("job-1", free_spec("p1", workers=2), "ann"))
    scene.clear()
    scene.start_all()
    for number in (1, 2):
        scene.wait(60_000)
        scene.round(number, {0: number * 60_000, 1: number * 60_000})
        scene.checkpoint(number)
    assert scene.view()["wanted"] == "run", "an escrow of nothing pays for what costs nothing"
    scene.restart()
    scene.do(CancelJob("job-1", "ann"))
    job = scene.view()
    assert (job["state"], job["billed_nanos"], job["escrow_nanos"], job["budget_reached_percent"]) == ("cancelled", 0, 0, 0)
    assert {(one["charged_ms"], one["charged_nanos"]) for one in job["leases"]} == {(120_000, 0)}
    assert scene.of_type("transfer") == []
    assert scene.of_type("budget_reached") == []
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_it_goes_nowhere_else_and_waits_for_its_own_machine() -> None:
    scene = Scene(funds_nanos=0)
    scene.offer("offer-0", "p2", usd=0.1)
    scene.offer("offer-1", "p1", usd=0.5, terms=ANNS)
    scene.do(SubmitJob("job-1", free_spec("p1"), "ann"))
    scene.clear()
    scene.do(SubmitJob("job-2", free_spec("p1"), "ann"))
    [why] = scene.clear().unmatched
    assert (why.job, why.reason) == ("job-2", "busy")
    assert why.relaxations == ()
    scene.do(CancelJob("job-1", "ann"))
    assert [match.offers for match in scene.clear().matches] == [("offer-1",)]


def test_who_offers_money_does_not_go_before_the_owner_and_is_not_displaced_either() -> None:
    scene = Scene()
    scene.do(Deposit("bobs", "bob", 100 * USD, "op"))
    scene.submit("job-b", "bob", workers__min=1, workers__max=1)
    scene.wait(60_000)
    scene.do(SubmitJob("job-1", free_spec("p1"), "ann"))
    scene.offer("offer-1", "p1", usd=0.5, terms=ANNS)
    assert [match.job for match in scene.clear().matches] == ["job-1"]
    scene.do(CancelJob("job-1", "ann"))
    assert [match.job for match in scene.clear().matches] == ["job-b"]
    scene.do(SubmitJob("job-2", free_spec("p1"), "ann"))
    assert scene.clear().matches == ()
    assert scene.state("job-b")[0] == "running"


@pytest.mark.parametrize(
    ("named", "terms", "by"),
    [
        (("p1",), OwnerTerms(), "the provider does not name her"),
        (("p1",), OwnerTerms(own=("bob",)), "the provider names somebody else"),
        (("p2",), ANNS, "she does not name the provider: a stranger who names her gets no such job"),
    ],
)
def test_both_sides_must_say_so(named: tuple[str, ...], terms: OwnerTerms, by: str) -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", usd=0.5, terms=terms)
    refusal = scene.refused(SubmitJob("job-1", free_spec(*named), "ann"))
    assert (refusal.code, refusal.field) == ("never_fits_not_yours", "workers.own"), by
    assert refusal.remedy is not None
    assert "`torg provide --own` there names you" in refusal.remedy
    scene.do(SubmitJob("job-1", free_spec(*named, wait=True), "ann"))
    [why] = scene.clear().unmatched
    assert why.reason == "not_yours"
    told = scene.exchange.explain("job-1")
    assert told is not None
    assert told["reason"] == "not_yours"


def test_a_spending_limit_that_is_used_up_holds_no_free_job_back() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", usd=0.5, terms=ANNS)
    scene.submit("job-0", wait=True, workers__gpu=["A100"])
    scene.do(SetLimits("ann", None, "op", per_day_nanos=1))
    scene.do(SubmitJob("job-1", free_spec("p1"), "ann"))
    scene.wait(1_000)
    scene.clear()
    scene.start_all()
    scene.wait(1_000)
    scene.read(s0=1_000)
    assert (scene.state("job-1")[0], scene.view()["wanted"]) == ("running", "run")


def test_money_is_neither_held_nor_taken_for_it() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", usd=0.5, terms=ANNS)
    paid = free_spec("p1")
    paid["limits"]["budget_nanos"] = USD
    assert scene.refused(SubmitJob("job-1", paid, "ann")).field == "limits.budget_nanos"
    nothing = make_spec(**FREE)
    assert scene.refused(SubmitJob("job-1", nothing, "ann")).field == "limits.max_price_nanos_per_gpu_hour"
    odd = free_spec("p1")
    odd["workers"]["own"] = ["a b"]
    assert scene.refused(SubmitJob("job-1", odd, "ann")).field == "workers.own"
    scene.do(SubmitJob("job-1", free_spec("p1"), "ann"))
    assert scene.refused(AddBudget("b", "job-1", USD, "ann")).code == "costs_nothing"


FILES = {
    "trains": "{name: a, workload: byte_lm, steps: 10, workers: {own: lab, gpu: cpu}, limits: {deadline_hours: 2}}",
    "runs a command": "{name: a, command: python a.py, workers: {own: [lab, lab], gpu: cpu}}",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_job_file_names_its_own_machines_and_no_money(text: str) -> None:
    spec = resolve(parse_job(text.replace("byte_lm", "digits")), digest_only)
    assert spec["workers"]["own"] == ["lab"]
    assert (spec["limits"]["max_price_nanos_per_gpu_hour"], spec["limits"]["budget_nanos"]) == (0, 0)


def test_a_job_file_with_own_machines_and_a_price_is_asked_which_it_means() -> None:
    with pytest.raises(FormError) as wrong:
        parse_job("{name: a, command: python a.py, workers: {own: lab}, limits: {budget_usd: 1}}")
    assert "workers.own and limits.budget_usd; machines of your own cost nothing: leave it out" in str(wrong.value)
    with pytest.raises(FormError) as missing:
        parse_job("{name: a, command: python a.py, workers: {gpu: cpu}, limits: {budget_usd: 1}}")
    assert missing.value.field == "limits.max_usd_per_gpu_hour"


def test_every_refusal_for_hardware_names_its_field() -> None:
    """A field that is missing here was an error of the market's when such a job was submitted."""
    assert HARDWARE - {Reason(name) for name in _FIELD_OF} == set()
