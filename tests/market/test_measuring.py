"""Whether machines are what they say: thresholds of the catalogue, measurements that the market asks for, and doubt."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import Heard, ReportMeasured, Tick
from market.hardware import GPUS
from market.measurements import LEAST_BANDWIDTH_SHARE, LEAST_MATMUL_SHARE, doubt_of, fallen
from tests.market.scene import Scene

HOUR_MS = 3_600_000
CARDS = [gpu for gpu in GPUS if gpu.tflops and gpu.gb_per_s]


def card(tflops: float, gb_per_s: float) -> dict[str, float]:
    return {"matmul_mflops_per_unit": int(tflops * 1e6), "memory_mbytes_per_second": int(gb_per_s * 1e3), "cores": 64}


H100 = card(680, 2_900)
LIKE_A_3060 = card(20, 320)


@pytest.mark.parametrize(
    ("gpu", "gpus", "vram_gib", "measured", "field", "says"),
    [
        ("H100", 1, 79.6, H100,                    None,                               ""),
        ("H100", 8, 79.6, card(520, 1_800),        None,                               ""),  # a PCIe card
        ("H100", 1, 79.6, LIKE_A_3060,             "measured.matmul_mflops_per_unit",  "756 TFLOP/s at its peak, and 20 were measured: 3%"),
        ("H100", 1, 79.6, card(245, 1_400),        "measured.matmul_mflops_per_unit",  "756 TFLOP/s"),  # an A100
        ("A100", 1, 39.4, card(125, 690),          "measured.memory_mbytes_per_second", "1555 GB/s of memory bandwidth at its peak, and 690"),  # an A6000
        ("RTX3090", 1, 24, card(650, 2_900),       "measured.matmul_mflops_per_unit",  "71 TFLOP/s at its peak, and 650 are said"),
        ("RTX4090", 1, 47.9, card(140, 900),       "vram_gib",                         "24 GiB of memory, and the offer says 47.9"),
        ("RTX3060", 1, 12, card(20, 100),          "measured.memory_mbytes_per_second", "240 GB/s"),  # no peak known, bandwidth is
        ("Foo9", 1, 900, card(1, 1),               None,                               ""),
        ("H100", 1, 79.6, {},                      None,                               ""),
        ("cpu", 8, 0, {"cores": 8, "matmul_mflops_per_unit": 90_000}, None,            ""),
        ("cpu", 64, 0, {"cores": 8},               "gpus",                             "64 cores, and the machine 8"),
        ("cpu", 1, 0, {"matmul_mflops_per_unit": 9_000_000}, "measured.matmul_mflops_per_unit", "no core makes more than 2000 GFLOP/s, and 9,000"),
        ("cpu", 1, 0, {"memory_mbytes_per_second": 3_000_000}, "measured.memory_mbytes_per_second", "GB/s"),
    ],
)  # fmt: skip
def test_what_is_believed(gpu: str, gpus: int, vram_gib: float, measured: dict[str, float], field: str | None, says: str) -> None:
    found = doubt_of(gpu, gpus, vram_gib, measured)
    assert (None if found is None else found.field) == field
    if found is not None:
        assert says in found.message
        assert found.remedy


def test_a_card_that_is_another_is_told_what_it_measures_like() -> None:
    found = doubt_of("H100", 1, 79.6, card(235, 1_380))
    assert found is not None
    assert "it measures like A100" in found.remedy


@settings(deadline=None)
@given(model=st.sampled_from(CARDS), matmul=st.floats(0.5, 1.0), memory=st.floats(0.7, 1.0))
def test_a_card_that_is_what_it_says_is_never_doubted(model: Any, matmul: float, memory: float) -> None:
    for one in model.variants:
        peak = one.bf16 or one.fp16
        if peak and one.gb_per_s:
            assert doubt_of(model.name, 1, one.vram_gib, card(peak * matmul, one.gb_per_s * memory)) is None


@settings(deadline=None)
@given(model=st.sampled_from(CARDS), share=st.floats(0.0, 0.99))
def test_one_that_falls_short_of_either_is_refused(model: Any, share: float) -> None:
    strong = card(model.tflops * 0.8, model.gb_per_s * 0.9)
    for weak in (card(model.tflops * LEAST_MATMUL_SHARE * share, model.gb_per_s * 0.9),
                 card(model.tflops * 0.8, model.gb_per_s * LEAST_BANDWIDTH_SHARE * share)):  # fmt: skip
        assert doubt_of(model.name, 1, 1, weak) is not None
    assert doubt_of(model.name, 1, 1, strong) is None


def test_a_machine_is_held_against_itself_too() -> None:
    assert fallen(card(1, 100), card(0.34, 100)) is None
    found = fallen(card(1, 100), card(1, 33))
    assert found is not None
    assert "33 GB/s were measured, 100 when it was listed" in found.message
    assert fallen({}, card(1, 1)) is None


# what the market asks for


def scene_with(**offer: Any) -> Scene:
    scene = Scene()
    scene.offer(gpu="H100", vram_gib=79.6, measured=H100, **offer)
    return scene


def pass_time(scene: Scene, ms: int, random: int = 7) -> None:
    """Every ten seconds the provider is heard and the market ticks."""
    for _ in range(ms // 10_000):
        scene.now_ms += 10_000
        scene.do(Heard("offer-1", "p1"))
        scene.do(Tick(random=random))


def until_asked(scene: Scene, most_ms: int) -> dict[str, Any]:
    before = len(scene.of_type("measurement_asked"))
    for _ in range(most_ms // 10_000):
        pass_time(scene, 10_000)
        if len(asked := scene.of_type("measurement_asked")) > before:
            return asked[-1]
    raise AssertionError("nobody was asked")


def answer(scene: Scene, seed: int, measured: dict[str, float]) -> dict[str, Any]:
    return scene.do(ReportMeasured("offer-1", seed, measured, "p1"))


def shown(scene: Scene) -> dict[str, Any]:
    found = scene.exchange.offer("offer-1")
    assert found is not None
    return found


def test_an_h100_that_measures_like_a_3060_is_refused_with_both_figures() -> None:
    scene = Scene()
    refusal = scene.refused(scene.make_offer("offer-1", "p1", 2.0, 1, gpu="H100", vram_gib=79.6, measured=LIKE_A_3060))
    assert (refusal.code, refusal.status) == ("hardware_mismatch", 422)
    assert "756 TFLOP/s at its peak, and 20 were measured" in refusal.message
    assert scene.of_type("offer_placed") == []


def test_the_market_asks_when_it_likes_and_nobody_is_matched_meanwhile() -> None:
    scene = scene_with()
    asked = until_asked(scene, 18 * HOUR_MS)
    assert 300_000 <= scene.now_ms - shown(scene)["placed_ms"] <= 900_000 + 20_000
    assert shown(scene)["measure"] == {"seed": asked["seed"], "until_ms": scene.now_ms + 120_000}
    scene.submit(workers={**scene_workers(), "min": 1, "max": 1})
    scene.clear()
    assert scene.state() == ("pending", "not_available")
    assert answer(scene, asked["seed"], card(690, 2_800) | {"disk_read_mbytes_per_second": 900})["doubt"] == ""
    assert shown(scene)["measured"]["disk_read_mbytes_per_second"] == 900
    scene.clear()
    assert scene.state()[0] == "running"
    assert answer(scene, asked["seed"], H100)["strikes"] == 0, "told again"
    assert scene.refused(ReportMeasured("offer-1", asked["seed"] + 1, H100, "p1")).code == "not_asked"
    assert scene.refused(ReportMeasured("offer-1", asked["seed"], H100, "p2")).status == 404
    pass_time(scene, HOUR_MS)
    assert len(scene.of_type("measurement_asked")) == 1, "who is rented out is left alone"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_after_the_first_time_it_is_hours_and_never_the_same() -> None:
    waits = []
    for random in (7, 8, 9):
        scene = scene_with()
        answer(scene, until_asked(scene, HOUR_MS)["seed"], H100)
        began_ms = scene.now_ms
        while len(scene.of_type("measurement_asked")) < 2:
            pass_time(scene, 60_000, random)
        waits.append(scene.now_ms - began_ms)
    assert all(6 * HOUR_MS <= wait_ms <= 18 * HOUR_MS + 60_000 for wait_ms in waits)
    assert len(set(waits)) == 3


def test_two_low_figures_in_a_row_put_an_offer_in_doubt_until_one_bears_it_out() -> None:
    scene = scene_with()
    answer(scene, until_asked(scene, 18 * HOUR_MS)["seed"], LIKE_A_3060)
    assert not shown(scene)["suspect"], "one may be a bad moment"
    answer(scene, until_asked(scene, 120_000)["seed"], LIKE_A_3060)
    assert shown(scene)["suspect"]
    assert "756 TFLOP/s at its peak, and 20 were measured" in shown(scene)["suspect_reason"]
    scene.submit(workers={**scene_workers(), "min": 1, "max": 1})
    scene.clear()
    explained = scene.exchange.explain("job-1")
    assert explained is not None
    assert "offer-1 is left out: an H100 has 756 TFLOP/s" in explained["detail"]
    assert scene.exchange.figures().doubted == 1
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    answer(scene, until_asked(scene, 1_500_000)["seed"], H100)
    assert (shown(scene)["suspect"], shown(scene)["suspect_reason"]) == (False, "")
    scene.clear()
    assert scene.state()[0] == "running"


def test_who_does_not_answer_is_doubted_too_and_saying_the_old_figures_again_helps_nobody() -> None:
    scene = scene_with()
    for wait_ms in (HOUR_MS, 360_000):
        until_asked(scene, wait_ms)
        pass_time(scene, 130_000)
    assert shown(scene)["suspect_reason"] == "it was asked to measure, and did not answer"
    scene.offer(gpu="H100", vram_gib=79.6, measured=H100)
    assert shown(scene)["suspect"]
    scene.offer(gpu="H100", vram_gib=79.6, measured=card(600, 2_700))  # another measurement, as a new start makes
    assert not shown(scene)["suspect"]
    until_asked(scene, 120_000)
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


@pytest.mark.parametrize("measured", [{}, {"a b": 1}, {"x": -1}, {"x": float("nan")}, {f"x{n}": 1 for n in range(65)}])
def test_figures_that_are_none_are_refused(measured: dict[str, float]) -> None:
    scene = scene_with()
    asked = until_asked(scene, 18 * HOUR_MS)
    assert scene.refused(ReportMeasured("offer-1", asked["seed"], measured, "p1")).code == "invalid"


def test_without_randomness_nobody_is_asked() -> None:
    scene = scene_with()
    pass_time(scene, 20 * HOUR_MS, random=0)
    assert scene.of_type("measurement_asked") == []


def scene_workers() -> dict[str, Any]:
    return {"gpus": 1, "gpu": ["H100"], "vram_gib": 0, "region": [], "reliability": 0.0, "isolation": "process"}
