"""The catalogue of GPUs, and the names by which drivers, other markets and people call them."""

import pytest

from market.hardware import (
    GPUS,
    BadRequest,
    GpuRequest,
    UnknownGpu,
    canonical_name,
    name_of_product,
    offered_name,
    parse_request,
)


def test_the_catalogue_is_a_catalogue() -> None:
    assert len(GPUS) >= 26
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS[1:]:
        assert canonical_name(gpu.name) == gpu.name
        for one in gpu.variants:
            assert one.vram_gib > 0
            assert one.source
            assert 2016 <= one.year <= 2026
            peaks = [one.fp32, one.tf32, one.bf16, one.gb_per_s]
            assert all(peak is None or peak > 0 for peak in peaks)
            known = [peak for peak in peaks[:3] if peak is not None]
            assert known == sorted(known), f"{gpu.name}: narrower numbers are multiplied faster"
            assert one.fp16 is None or one.bf16 is None or one.fp16 == one.bf16
    names = [alias for gpu in GPUS for alias in (gpu.name, *gpu.aliases)]
    assert all(canonical_name(alias) == gpu.name for gpu in GPUS for alias in gpu.aliases), "an alias is of one model"
    assert len(names) > 120


@pytest.mark.parametrize(
    ("product", "vram_gib", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.2, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 79.2, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "A100"),
        ("NVIDIA H100 80GB HBM3", 79.6, "H100"),
        ("NVIDIA H200", 140.4, "H200"),
        ("NVIDIA GeForce RTX 4090", 23.9, "RTX4090"),
        ("NVIDIA RTX 6000 Ada Generation", 47.9, "RTX6000Ada"),
        ("Tesla T4", 14.7, "T4"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100-32GB"),
        ("NVIDIA Foo (9)", 3.0, "Foo9"),
        ("NVIDIA H100 NVL", 93.6, "H100"),
        ("NVIDIA H100 PCIe", 79.6, "H100"),
        ("NVIDIA L40S", 44.7, "L40S"),
        ("NVIDIA A10G", 22.5, "A10G"),
        ("NVIDIA B300 SXM6 AC", 268.0, "B300"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.6, "RTXPRO6000"),
        ("NVIDIA GeForce RTX 4080 SUPER", 15.7, "RTX4080S"),
        ("NVIDIA GeForce RTX 3080 Ti", 11.8, "RTX3080Ti"),
        ("Tesla V100-FHHL-16GB", 15.8, "V100"),
    ],
)
def test_what_drivers_say(product: str, vram_gib: float, name: str) -> None:
    assert name_of_product(product, vram_gib) == name


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("auto", GpuRequest(None, None)),
        ("2", GpuRequest(None, 2)),
        ("cpu", GpuRequest("cpu", 1)),
        ("cpu:2", GpuRequest("cpu", 2)),
        ("rtx-4090:2", GpuRequest("RTX4090", 2)),
    ],
)
def test_what_people_ask_for(text: str, request_: GpuRequest) -> None:
    assert parse_request(text) == request_


@pytest.mark.parametrize("text", ["cpu:", "cpu:0", "cpu:-1", "cpu:9999999", ":2", "cpu:two", ""])
def test_what_cannot_be_asked_for(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_request(text)


def test_an_unknown_card_is_helped() -> None:
    with pytest.raises(UnknownGpu, match="did you mean RTX4090"):
        canonical_name("RTX 409")


@pytest.mark.parametrize(
    ("where", "written", "name"),
    [
        ("vast", "RTX_4090", "RTX4090"), ("vast", "RTX 3090 Ti", "RTX3090Ti"), ("vast", "H100_SXM", "H100"), ("vast", "H100 NVL", "H100"),
        ("vast", "A100_SXM4", "A100-80GB"), ("vast", "A100 PCIE", "A100-80GB"), ("vast", "Tesla_T4", "T4"), ("vast", "Tesla V100", "V100"),
        ("vast", "RTX A5000", "A5000"), ("vast", "RTX 6000Ada", "RTX6000Ada"), ("vast", "RTX 4070S", "RTX4070S"),
        ("SkyPilot", "RTX6000-Ada", "RTX6000Ada"), ("SkyPilot", "A100-80GB", "A100-80GB"), ("SkyPilot", "H100-MEGA", "H100"),
        ("SkyPilot", "V100-32GB", "V100-32GB"), ("SkyPilot", "A100", "A100"),
        ("RunPod", "AMD Instinct MI300X OAM", "MI300X"), ("RunPod", "NVIDIA A100 80GB PCIe", "A100-80GB"), ("RunPod", "A100 SXM", "A100-80GB"),
        ("RunPod", "NVIDIA RTX 4000 SFF Ada Generation", "RTX4000Ada"), ("RunPod", "NVIDIA H100 80GB HBM3", "H100"),
        ("RunPod", "RTX 2000 Ada", "RTX2000Ada"), ("RunPod", "NVIDIA RTX A2000", "A2000"), ("RunPod", "H200 SXM", "H200"),
        ("dstack", "H100NVL", "H100"), ("dstack", "RTX3060Ti", "RTX3060Ti"), ("dstack", "MI300X", "MI300X"),
        ("people", "nvidia h100", "H100"), ("people", "4090", "RTX4090"), ("people", "geforce rtx 5090", "RTX5090"),
    ],
)  # fmt: skip
def test_other_markets_names(where: str, written: str, name: str) -> None:
    assert canonical_name(written) == name, where


def test_an_offer_is_listed_under_the_catalogues_name_so_that_jobs_find_it() -> None:
    assert [offered_name("A100", 80), offered_name("A100-80GB", 39.4), offered_name("H100-SXM", 0)] == ["A100-80GB", "A100", "H100"]
    assert [offered_name("cpu", 4.0), offered_name("Foo-9", 8), offered_name("V100", 31.7)] == ["cpu", "Foo-9", "V100-32GB"]
