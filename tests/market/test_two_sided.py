"""A lease's bill is what its worker and its run agree on; the rest is flagged and stays in the escrow."""

from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import Reading, ReportReadings, StartLease
from market.metering import agreed_ms
from storage.bills import bill_of
from storage.meter_readings import COUNTS, is_signed, new_meter_key, sign_reading
from storage.units import charge_nanos
from tests.market.scene import Scene


def begun(key: str = "") -> Scene:
    """One lease at 0.5 USD an hour, its worker started with this key."""
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    scene.submit(workers__min=1, workers__max=1)
    scene.clear()
    lease = scene.view()["leases"][0]
    scene.do(StartLease(lease["id"], lease["epoch"], "w", 1, "node", "p1", meter_key=key))
    return scene


def tell(scene: Scene, leased_ms: int, run_ms: int | None, signature: str = "") -> None:
    lease = scene.view()["leases"][0]
    reading = Reading(lease["id"], lease["epoch"], leased_ms, leased_ms, 0, 0, 0, run_ms, signature)
    scene.do(ReportReadings("job-1", 7, (reading,), (), (), "plane"))


def test_time_that_the_run_did_not_see_is_flagged_held_and_not_charged() -> None:
    scene = begun()
    scene.wait(3_600_000)
    tell(scene, 3_600_000, 1_800_000)
    lease = scene.view()["leases"][0]
    assert (lease["metered_ms"], lease["questioned_ms"]) == (1_800_000, 1_800_000)
    assert lease["questioned_nanos"] == charge_nanos(500_000_000, 1, 1_800_000)
    explained = scene.exchange.explain("job-1")
    assert explained is not None
    assert [(one["agreed_ms"], one["worker_ms"]) for one in explained["questioned"]] == [(1_800_000, 3_600_000)]
    scene.restart()
    assert scene.view()["leases"][0]["questioned_ms"] == 1_800_000
    scene.halt("failed", "exception")
    assert scene.view()["billed_nanos"] == charge_nanos(500_000_000, 1, 1_800_000)


def test_honest_clocks_agree_and_a_run_that_says_nothing_objects_to_nothing() -> None:
    assert agreed_ms(3_600_000, 3_594_000) == 3_600_000
    assert agreed_ms(3_600_000, 3_500_000) == 3_500_000
    assert agreed_ms(900_000, None) == agreed_ms(900_000, 950_000) == 900_000


READINGS = st.lists(st.tuples(st.integers(0, 900_000), st.integers(0, 900_000) | st.none()), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(READINGS, st.randoms(use_true_random=False), st.integers(0, 100_000))
def test_duplicates_order_and_gaps_come_to_the_same_bill(
    readings: list[tuple[int, int | None]], chance, skew: int
) -> None:  # type: ignore[no-untyped-def]
    """Cumulative readings: whatever of them comes twice, late or not at all, as long as the largest does."""

    def billed(told: list[tuple[int, int | None]]) -> tuple[int, int, int]:
        scene = begun()
        scene.wait(1_000_000 + skew)
        for leased_ms, run_ms in told:
            tell(scene, leased_ms, run_ms)
        lease = scene.view()["leases"][0]
        scene.halt("failed", "exception")
        return lease["metered_ms"], lease["questioned_ms"], scene.view()["billed_nanos"]

    last = (max(said for said, _ in readings), max((run or 0) for _, run in readings))
    straight = [*readings, last]
    muddled = straight + chance.choices(straight, k=3)
    chance.shuffle(muddled)
    assert billed(muddled) == billed(straight)
    agreeing = [(said, said + chance.randrange(500)) for said in sorted(said for said, _ in readings)]
    assert billed(chance.sample(agreeing[:-1], k=len(agreeing) // 2) + agreeing[-1:]) == billed(agreeing)


def test_the_signed_reading_is_in_the_record_of_the_charge_and_anybody_can_check_it() -> None:
    private, public = new_meter_key()
    scene = begun(public)
    scene.wait(60_000)
    lease = scene.view()["leases"][0]
    figures = dict.fromkeys(COUNTS, 0) | {"leased_ms": 50_000, "trained_ms": 50_000}
    tell(scene, 50_000, 50_100, sign_reading(private, lease["id"], lease["epoch"], figures))
    assert not scene.of_type("meter_signed"), "not with every reading"
    scene.halt("failed", "exception")
    (signed,) = scene.of_type("meter_signed")
    assert (signed["leased_ms"], signed["run_ms"]) == (50_000, 50_100)
    assert is_signed(public, lease["id"], lease["epoch"], signed, signed["signature"])
    assert not is_signed(public, lease["id"], lease["epoch"], signed | {"leased_ms": 50_001}, signed["signature"])
    assert not is_signed(new_meter_key()[1], lease["id"], lease["epoch"], signed, signed["signature"])
    assert not is_signed("", lease["id"], lease["epoch"], signed, "")
    assert scene.view()["leases"][0]["signed"]["signature"] == signed["signature"]
    bill = bill_of([(1, event) for event in scene.events if event.get("job") == "job-1"])
    assert bill["lines"][0]["signed_ms"] == 50_000


def test_who_names_no_key_has_no_signed_reading() -> None:
    scene = begun()
    scene.wait(60_000)
    tell(scene, 50_000, 50_000, "ab" * 64)
    scene.halt("failed", "exception")
    assert not scene.of_type("meter_signed")
