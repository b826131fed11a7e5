"""What a job's own steps say of a machine."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import Member, ReportCheckpoint, ReportRound, Tick
from tests.market.scene import Scene, digest


def job_done(scene: Scene, name: str, step_ms: dict[int, int], rounds: int = 3, steps: int = 30) -> None:
    """A job whose workers take so many milliseconds a step, by slot, with 1 kB each way a millisecond of stall."""
    scene.submit(name, workers={**workers(), "min": len(step_ms), "max": len(step_ms)})
    scene.clear()
    scene.start_all(name)
    by_slot = {one["slot"]: one for one in scene.view(name)["workers"]}
    for number in range(1, rounds + 1):
        members = tuple(
            Member(by_slot[slot]["id"], by_slot[slot]["epoch"], slot, 2.5, steps, 1_000, number * steps * ms + 100, number * steps * ms,
                   99, digest("c"), sent_bytes=5_000, received_bytes=5_000, stall_ms=10 * number)
            for slot, ms in step_ms.items()
        )  # fmt: skip
        scene.now_ms += 60_000
        scene.do(ReportRound(name, number, steps * number, digest(f"{name}{number}"), "all", 1_000, members, (), "plane"))
    scene.do(ReportCheckpoint(name, rounds, steps * rounds, digest(f"{name}m"), 10, 1, (), "plane"))
    scene.halt("done", job=name)


def workers() -> dict[str, Any]:
    return {"gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [], "reliability": 0.0, "isolation": "process"}


def seen(scene: Scene) -> dict[str, Any]:
    return {offer["id"]: offer["pace"] for offer in scene.exchange.offers(scene.now_ms)}


def market_of(number: int) -> Scene:
    scene = Scene()
    for one in range(1, number + 1):
        scene.offer(f"offer-{one}", f"p{one}", 0.4 + 0.1 * one)
    return scene


def test_a_machine_that_is_slower_than_the_others_of_its_model_shows_and_is_measured_soon() -> None:
    scene = market_of(4)
    job_done(scene, "job-1", {0: 100, 1: 100, 2: 110, 3: 300})
    shown = seen(scene)
    assert [shown[f"offer-{n}"]["percent"] for n in (1, 2, 3, 4)] == [110, 110, 90, 33]
    assert {one["others"] for one in shown.values()} == {3}
    assert {one["exchange_kbytes_per_second"] for one in shown.values()} == {1_000}, "the best round counts"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    scene.wait(1)  # all are heard of
    scene.do(Tick(random=5))
    assert [event["offer"] for event in scene.of_type("measurement_asked")] == ["offer-4"]


def test_two_alone_say_nothing_until_earlier_jobs_of_the_same_work_do() -> None:
    scene = market_of(2)
    job_done(scene, "job-1", {0: 100, 1: 300})
    assert {one["percent"] for one in seen(scene).values()} == {None}
    job_done(scene, "job-2", {0: 100, 1: 300})
    assert {one["others"] for one in seen(scene).values()} == {2}
    assert seen(scene)["offer-1"]["percent"] is not None


def test_a_few_steps_say_nothing() -> None:
    scene = market_of(4)
    job_done(scene, "job-1", {0: 100, 1: 100, 2: 110, 3: 300}, rounds=1, steps=19)
    assert {one["percent"] for one in seen(scene).values()} == {None}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 500), min_size=3, max_size=4))
def test_the_percent_is_the_median_of_the_others_over_ones_own(step_ms: list[int]) -> None:
    scene = market_of(len(step_ms))
    job_done(scene, "job-1", dict(enumerate(step_ms)), rounds=1)
    by_slot = {one["slot"]: one["offer"] for one in scene.view("job-1")["leases"]}
    for slot, own in enumerate(step_ms):
        others = sorted(step_ms[:slot] + step_ms[slot + 1 :])
        assert seen(scene)[by_slot[slot]]["percent"] == 100 * others[(len(others) - 1) // 2] // own
