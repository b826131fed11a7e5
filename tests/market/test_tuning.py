"""A running job is retuned: what it keeps, who may, what the directive, the reports and the proof say afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.checking import check_spec
from market.commands import Evaluated, HaltJob, ReportReadings, RetuneJob, Warned
from market.outcomes import Settings
from market.tuning import retuned
from storage.canonical import digest_of
from storage.provenance import make_bundle, verify_bundle
from tests.market.scene import Scene, digest, make_spec
from trainers.options import STRATEGIES, round_steps, strategy_options


def tune(id: str = "t1", strategy: str | None = "noloco", by: str = "ann", **options: Any) -> RetuneJob:
    return RetuneJob(id, "job-1", strategy, options, by)


def directive(scene: Scene) -> dict[str, Any]:
    found = scene.exchange.directive("job-1")
    assert found is not None
    return found


@pytest.fixture
def scene() -> Scene:
    """A job that has committed two rounds of 30 steps, the first of them durable."""
    made = Scene()
    made.running()
    made.wait(5_000)
    made.round(1, {0: 1000, 1: 1000})
    made.checkpoint(1)
    made.round(2, {0: 2000, 1: 2000})
    return made


def test_the_directive_has_the_new_strategy_a_new_version_and_rounds_to_match(scene: Scene) -> None:
    before = directive(scene)
    job = scene.do(tune(strategy=None, inner_steps=60))
    after = directive(scene)
    assert after["version"] > before["version"]
    assert (before["tuning"], after["tuning"]) == (0, 1)
    assert after["spec"]["strategy"] == before["spec"]["strategy"] | {"inner_steps": 60}
    assert after["spec"]["rounds"] == 2 + (600 - 60) // 60 == job["rounds_planned"]
    assert job["spec"] == make_spec(), "the spec stays as it was submitted"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_the_same_id_is_one_change_and_another_request_under_it_is_refused(scene: Scene) -> None:
    scene.do(tune())
    again = scene.say(tune())
    assert (again.events, again.created) == ((), False)
    assert scene.refused(tune(strategy="ddp")).code == "conflict"
    assert len(scene.of_type("job_retuned")) == 1
    scene.do(tune("t2", "ddp"))
    assert [one["id"] for one in scene.view()["tunings"]] == ["t1", "t2"]


def test_what_is_in_force_already_changes_nothing(scene: Scene) -> None:
    assert scene.say(tune(strategy="diloco", outer_lr=0.7)).events == ()
    assert directive(scene)["tuning"] == 0


REFUSED = [
    # by      strategy     options               code               field
    ("bob",   "noloco",    {},                   "unknown_job",     "job"),
    ("op",    "noloco",    {},                   "forbidden",       None),
    ("p1",    "noloco",    {},                   "forbidden",       None),
    ("ann",   "nolocco",   {},                   "invalid",         "strategy.name"),
    ("ann",   None,        {"outer_lr": -1},     "invalid",         "strategy.outer_lr"),
    ("ann",   None,        {"alpha": 0.5},       "invalid",         "strategy.alpha"),
    ("ann",   "noloco",    {"codec": "int9"},    "invalid",         "strategy.codec"),
    ("ann",   None,        {"name": "noloco", "inner_steps": float("nan")}, "invalid", "options"),
]  # fmt: skip


@pytest.mark.parametrize(("by", "strategy", "options", "code", "field"), REFUSED)
def test_a_change_that_cannot_be_is_refused_with_its_field(
    scene: Scene, by: str, strategy: str | None, options: dict[str, Any], code: str, field: str | None
) -> None:
    refusal = scene.refused(RetuneJob("t1", "job-1", strategy, options, by))
    assert (refusal.code, refusal.field) == (code, field)
    assert directive(scene)["tuning"] == 0


def test_a_job_that_is_over_is_not_retuned_and_one_that_waits_is() -> None:
    scene = Scene()
    scene.submit()
    assert scene.do(tune())["strategy"]["name"] == "noloco"
    for number in (1, 2):
        scene.offer(f"offer-{number}", f"p{number}", 0.5)
    scene.clear()
    scene.start_all()
    scene.do(HaltJob("job-1", "failed", "exception", "", None, "plane"))
    assert scene.refused(tune("t2", "ddp")).code == "job_over"


def report(scene: Scene, number: int, **manner: Any) -> None:
    ms = 1_000 * number
    scene.do(replace(scene.make_round(number, {0: ms, 1: ms}), **manner))


def test_the_proof_says_which_rounds_were_made_with_what(scene: Scene) -> None:
    scene.wait(5_000)
    scene.do(tune())
    report(scene, 3, strategy="diloco")  # was under way when the change was asked for
    report(scene, 4, strategy="noloco")
    scene.checkpoint(4)
    [history] = scene.view()["tunings"]
    assert (history["after_round"], history["first_round"]) == (2, 4)
    first, second = (one["statement"]["predicate"]["hyperparameters"] for one in scene.of_type("provenance"))
    assert first["strategy"] == make_spec()["strategy"]
    assert second["strategy"]["name"] == "diloco"
    assert [(one["round"], one["strategy"]["name"]) for one in second["switches"]] == [(4, "noloco")]
    report(scene, 5, strategy="noloco", tuning=1)
    scene.checkpoint(5)
    third = scene.of_type("provenance")[-1]["statement"]["predicate"]["hyperparameters"]
    assert (third["strategy"]["name"], "switches" in third) == ("noloco", False)
    parts = scene.exchange.bundle("job-1")
    assert parts is not None
    bundle = make_bundle("job-1", parts["spec"], parts["statements"], parts["transfers"])
    assert verify_bundle(bundle).ok
    assert bundle["body"]["spec_digest"] == digest_of(make_spec())


def test_a_round_keeps_how_it_was_made(scene: Scene) -> None:
    made = scene.make_round(3, {0: 3000, 1: 3000})
    busy = tuple(replace(one, sent_bytes=1000, received_bytes=900, stall_ms=7) for one in made.members)
    warned = (Warned(1, "nan"),)
    scene.do(replace(made, members=busy, strategy="diloco", attempts=2, late=(1, 1), warned=warned))
    shown = (scene.exchange.rounds("job-1") or [])[-1]
    assert (shown["attempts"], shown["late"], shown["warned"]) == (2, [1], [{"slot": 1, "reason": "nan"}])
    assert [one["sent_bytes"] for one in shown["members"]] == [1000, 1000]
    sums = scene.view()["training"]
    assert (sums["sent_bytes"], sums["received_bytes"], sums["stall_ms"], sums["retries"], sums["late"]) == (
        2000, 1800, 14, 1, 1
    )  # fmt: skip
    assert sums["goodput"] == 1.0
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("strategy", {"strategy": "two words"}),
        ("tuning", {"tuning": 1}),
        ("attempts", {"attempts": 0}),
        ("late", {"late": (-1,)}),
        ("warned.slot", {"warned": (Warned(-1, ""),)}),
    ],
)
def test_a_round_that_says_nonsense_is_refused(scene: Scene, field: str, changes: dict[str, Any]) -> None:
    assert scene.refused(replace(scene.make_round(3, {0: 3000}), **changes)).field == field


@pytest.mark.parametrize("name", ["sent_bytes", "received_bytes", "stall_ms"])
def test_a_members_figures_are_counts(scene: Scene, name: str) -> None:
    made = scene.make_round(3, {0: 3000})
    [member] = made.members
    refusal = scene.refused(replace(made, members=(replace(member, **{name: -1}),)))
    assert refusal.field == f"members.{name}"


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [({}, False, True), ({"inner_state": False}, False, False), ({"inner_state": True}, True, True)],
)
def test_checkpoints_keep_the_inner_state_by_the_strategy_in_force_unless_the_job_says(
    said: dict[str, bool], before: bool, after: bool
) -> None:
    scene = Scene()
    scene.running(checkpoint={"every_rounds": 1, "keep": 3, **said})
    assert directive(scene)["spec"]["checkpoint"]["inner_state"] is before
    scene.do(tune(strategy="ddp"))
    assert directive(scene)["spec"]["checkpoint"]["inner_state"] is after


def test_a_journal_from_before_is_replayed_with_what_it_says(scene: Scene) -> None:
    event = {name: value for name, value in scene.of_type("round_committed")[0].items()
             if name not in ("strategy", "tuning", "attempts", "late", "warned")}  # fmt: skip
    new = ("sent_bytes", "received_bytes", "stall_ms")
    members = [{name: value for name, value in one.items() if name not in new} for one in event["members"]]
    again = scene.replayed()
    again.replay(scene.now_ms, [event | {"members": members, "round": 3, "step": 90, "digest": digest("3")}])
    last = (again.rounds("job-1") or [])[-1]
    assert (last["strategy"], last["attempts"], last["late"], last["members"][0]["sent_bytes"]) == ("", 1, [], 0)
    again.job("job-1")


def test_the_workloads_figures_are_in_the_round_and_the_newest_in_the_job(scene: Scene) -> None:
    scene.evaluate("job-1", 1, 3.0, accuracy=0.5)
    scene.evaluate("job-1", 2, 2.0, accuracy=0.75, recall=1)
    before = len(scene.of_type("round_evaluated"))
    scene.evaluate("job-1", 2, 2.0, accuracy=0.75, recall=1)
    assert len(scene.of_type("round_evaluated")) == before, "told again, nothing happens"
    rounds = scene.exchange.rounds("job-1") or []
    assert [(one["loss"], one["metrics"]) for one in rounds] == [
        (3.0, {"accuracy": 0.5}), (2.0, {"accuracy": 0.75, "recall": 1.0}),
    ]  # fmt: skip
    assert scene.view()["metrics_last"] == {"accuracy": 0.75, "recall": 1.0}
    assert scene.replayed().rounds("job-1") == rounds


def test_figures_that_no_workload_may_give_are_refused(scene: Scene) -> None:
    for metrics in ({f"figure {number}": 1.0 for number in range(17)}, {"x" * 41: 1.0}, {"a": float("inf")}):
        refusal = scene.refused(ReportReadings("job-1", 77, (), (Evaluated(1, 3.0, metrics),), (), "plane"))
        assert refusal.field == "evaluated.metrics"
    assert scene.of_type("round_evaluated") == []


def test_an_evaluation_of_a_journal_from_before_has_no_figures(scene: Scene) -> None:
    again = scene.replayed()
    again.replay(scene.now_ms, [{"type": "round_evaluated", "job": "job-1", "round": 1, "loss": 3.0}])
    [first, *_] = again.rounds("job-1") or []
    assert (first["loss"], first["metrics"]) == (3.0, {})
    assert (again.job("job-1") or {})["metrics_last"] == {}


@given(st.sampled_from(sorted(STRATEGIES)), st.sampled_from(sorted(STRATEGIES)), st.integers(12, 500))
def test_every_strategy_can_follow_every_other(before: str, after: str, steps: int) -> None:
    current = strategy_options({"name": before, "inner_steps": steps})
    found = retuned(current, after, {})
    assert found["name"] == after
    assert found["inner_steps"] == steps
    assert retuned(found, after, {}) == found
    assert check_spec(make_spec(strategy=found), Settings()) is None
    assert round_steps(found) >= 1


def test_a_schedule_of_inner_steps_lasts_until_other_inner_steps_are_named() -> None:
    scheduled = strategy_options({"inner_steps": 3, "inner_steps_later": 7, "later_from": 0.55})
    assert retuned(scheduled, None, {"outer_lr": 1.0}) == {**scheduled, "outer_lr": 1.0}
    assert retuned(scheduled, "noloco", {})["inner_steps_later"] == 7
    assert "inner_steps_later" not in retuned(scheduled, "ddp", {})
    assert retuned(scheduled, None, {"inner_steps": 7}) == strategy_options({"inner_steps": 7})
    other = {"inner_steps": 4, "inner_steps_later": 9, "later_from": 0.5}
    assert retuned(scheduled, None, other) == strategy_options(other)


def test_error_feedback_follows_a_new_codec_unless_it_is_named() -> None:
    dense = strategy_options({"name": "diloco"})
    assert retuned(dense, None, {"codec": "top_k:64/4096+int2"})["error_feedback"] is True
    assert retuned(dense, None, {"codec": "top_k:64/4096+int2", "error_feedback": False})["error_feedback"] is False
