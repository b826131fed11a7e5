"""The filter language of `torg offers`, and the names of cards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.filters import FIELDS, FilterError, compile_filter, order_offers

OFFERS: list[dict[str, Any]] = [
    {"id": "a", "gpu": "A100", "vram_gib": 40.0, "reliability": 0.99, "region": "eu", "usd_per_gpu_hour": 1.1,
     "gpus": 4, "gpus_free": 2, "interruptible": False, "measured": {"matmul_gflops": 900.0}},
    {"id": "b", "gpu": "RTX4090", "vram_gib": 24.0, "reliability": 0.97, "region": "US", "usd_per_gpu_hour": 0.4,
     "gpus": 1, "gpus_free": 1, "interruptible": True, "measured": {}},
    {"id": "c", "gpu": "cpu", "vram_gib": 0.0, "reliability": 1.0, "region": "", "usd_per_gpu_hour": 0.05,
     "gpus": 8, "gpus_free": 0, "interruptible": False, "measured": {"matmul_gflops": 50.0}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("", "abc"),
        ("vram>=24 reliability>0.98 region in [eu,us] gpu=A100 price<1.5", "a"),
        ("vram>=24", "ab"),
        ("vram >= 24 and price < $1", "b"),
        ("vram>=24, price<1", "b"),
        ("region in [eu, us]", "ab"),
        ("region not in [eu]", "bc"),
        ("region != eu", "bc"),
        ("gpu = 'rtx 4090'", "b"),
        ("gpu in [a100-40gb, cpu]", "ac"),
        ("free>0", "ab"),
        ("interruptible", "b"),
        ("not interruptible", "ac"),
        ("interruptible=false free>0", "a"),
        ("measured.matmul_gflops>100", "a"),
        ('id="a"', "a"),
    ],
)
def test_what_passes(text: str, passing: str) -> None:
    passes = compile_filter(text)
    assert "".join(offer["id"] for offer in OFFERS if passes(offer)) == passing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vrm>=24", "unknown field 'vrm'; did you mean vram?"),
        ("vram>=lots", "vram is compared with a number, not 'lots'"),
        ("vram>=nan", "a number"),
        ("gpu=A1000", "did you mean"),
        ("region>eu", "compared with = or !="),
        ("region in eu", "a list after region in"),
        ("region in []", "is empty"),
        ("region in [eu", "a comma or ]"),
        ("vram", "expected =, !=, <"),
        ("vram>=", "found the end"),
        ("not vram>3", "write vram"),
        ("interruptible=maybe", "true or false"),
        ("price<0.5 'x", "cannot be read"),
    ],
)
def test_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("order", "ids"), [("price", "cba"), ("price-", "abc"), ("region,vram-", "cab"), ("", "abc")])
def test_order(order: str, ids: str) -> None:
    assert "".join(offer["id"] for offer in order_offers(OFFERS[::-1], order)) == ids


@settings(deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*FIELDS, ">=", "in", "[", "]", ",", "eu", "3", "not"])).map(" ".join)
)
def test_any_text_is_a_filter_or_a_clear_error(text: str) -> None:
    try:
        passes = compile_filter(text)
    except FilterError as error:
        said = str(error)
    else:
        said = "passes" if all(passes(offer) in (True, False) for offer in OFFERS) else ""
    assert said
