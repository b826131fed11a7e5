"""What providers say of their hardware, over HTTP: names, refusals with both figures, probes of the link, prices."""

import httpx2

from tests.api.square import Square, make_offer, refusal

H100 = {"matmul_mflops_per_unit": 680_000_000, "memory_mbytes_per_second": 2_900_000}


def test_an_h100_that_measures_like_a_3060_is_refused_and_a_real_one_is_found_by_any_name(square: Square) -> None:
    owner, offer = square.newcomer("provider")[1], square.name("offer")
    weak = {"matmul_mflops_per_unit": 20_000_000, "memory_mbytes_per_second": 320_000}
    wrong = refusal(lambda: owner.place_offer(make_offer(offer, "lab", gpu="H100-SXM", vram_gib=79.6, measured=weak)))
    assert (wrong.code, wrong.status, wrong.field) == ("hardware_mismatch", 422, "measured.matmul_mflops_per_unit")
    assert "an H100 has 756 TFLOP/s at its peak, and 20 were measured" in wrong.message
    owner.place_offer(make_offer(offer, "lab", gpu="H100-SXM", vram_gib=79.6, measured=H100))
    shown = next(one for one in square.newcomer("customer")[1].offers() if one["id"] == offer)
    assert (shown["gpu"], shown["suspect"], shown["measure"]) == ("H100", False, None)
    not_asked = refusal(lambda: owner.report_measured(offer, seed=1, measured=H100))
    assert (not_asked.code, not_asked.status) == ("not_asked", 409)
    prices = square.newcomer("customer")[1].prices(gpu="nvidia h100 sxm", region="lab", points=4)
    assert [(one["gpu"], one["kind"], one["n"]) for one in prices["items"]] == [("H100", "quotes", 1)]
    assert "provider" not in str(prices)
    bad = refusal(lambda: square.newcomer("customer")[1].prices(since="whenever"))
    assert (bad.code, bad.field) == ("not_an_instant", "since")


def test_a_link_is_probed_with_bytes_that_are_counted_and_bounded(square: Square) -> None:
    owner = square.newcomer("provider")[1]
    trip_s, get_s, send_s = owner.blobs.probe(1 << 20)
    assert min(trip_s, get_s, send_s) > 0
    for size in (-1, 4 * 2**20 + 1):
        assert refusal(lambda size=size: owner._wire.call("GET", "/v1/probe", params={"size": size})).status == 422
    assert owner._wire.json("POST", "/v1/probe", content=b"x" * 70_000) == {"bytes": 70_000}
    long = refusal(lambda: owner._wire.call("POST", "/v1/probe", content=bytes(4 * 2**20 + 1)))
    assert (long.status, long.code) == (413, "body_too_large")
    answer = owner._wire.call("GET", "/v1/probe", params={"size": 70_000})
    assert isinstance(answer, httpx2.Response)
    assert answer.content == bytes(70_000)
