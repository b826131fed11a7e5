"""The GPU catalogue: data, each row with its source. `market/hardware.py` has the names and what is done with it.

Figures are of one card. Peaks are in TFLOP/s, dense (where a maker prints them with 2:4 sparsity, half of that) and, of
matrix units, with float32 accumulation, which is what torch does; `gb_per_s` is memory bandwidth in 10^9 bytes a second;
`vram_gib` is as sold. None: no figure that we could trace to its maker. A card that is sold in several forms has a variant
for each; what is said of a model must hold for the weakest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of a model."""

    vram_gib: float
    source: str
    year: int
    form: str = ""
    fp32: float | None = None
    tf32: float | None = None
    bf16: float | None = None
    fp16: float | None = None
    gb_per_s: float | None = None
    interconnect: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model under its canonical name. `aliases` are further names: of NVIDIA's driver, vast, SkyPilot, RunPod, dstack."""

    name: str
    variants: tuple[Variant, ...]
    aliases: tuple[str, ...] = ()

    @property
    def vram_gib(self) -> float:
        """Of its smallest variant."""
        return min(one.vram_gib for one in self.variants)

    @property
    def most_vram_gib(self) -> float:
        return max(one.vram_gib for one in self.variants)

    @property
    def tflops(self) -> float | None:
        """The peak by which a matrix product is judged, of the weakest variant: bfloat16 where it has that, else float16."""
        return min((peak for one in self.variants if (peak := one.bf16 or one.fp16)), default=None)

    @property
    def gb_per_s(self) -> float | None:
        """Of the weakest variant."""
        return min((one.gb_per_s for one in self.variants if one.gb_per_s), default=None)

    @property
    def most_tflops(self) -> float | None:
        return max((peak for one in self.variants if (peak := one.bf16 or one.fp16)), default=None)

    @property
    def most_gb_per_s(self) -> float | None:
        return max((one.gb_per_s for one in self.variants if one.gb_per_s), default=None)


_A100_WP = "NVIDIA A100 architecture paper, 2020, table 4 (with P100 and V100)"
_GA102 = "NVIDIA GA102 architecture paper v2, 2021"
_ADA = "NVIDIA Ada architecture paper v2, 2023, appendix A"
_RTX_BLACKWELL = "NVIDIA RTX Blackwell architecture paper, 2025"
_GEFORCE = "NVIDIA's GeForce specifications (bandwidth)"
_H100 = "NVIDIA H100 architecture paper v1.04 and data sheet, 2023"
_BLACKWELL = "NVIDIA Blackwell architecture brief, 2025, table 3 (HGX, per GPU)"
_RUNPOD = "RunPod's table of GPU types (memory)"

GPUS: Final[tuple[Gpu, ...]] = (
    Gpu("cpu", (Variant(0, "one core; what it does is measured, not looked up", 0),), ("core", "cores")),
    Gpu("P100", (
        Variant(16, _A100_WP, 2016, "SXM2", fp32=10.6, fp16=21.2, gb_per_s=720, interconnect="NVLink"),
        Variant(16, "NVIDIA Tesla P100 data sheet, 2016", 2016, "PCIe", fp16=18.7, gb_per_s=732),
    ), ("P100-16GB", "P100-PCIE-16GB", "P100-SXM2-16GB")),
    Gpu("T4", (Variant(16, "NVIDIA T4 data sheet, 2019", 2018, "PCIe", fp32=8.1, fp16=65, gb_per_s=320),), ("Tesla T4", "T4-16GB")),
    Gpu("V100", (
        Variant(16, "NVIDIA V100 data sheet, 2020", 2017, "SXM2", fp32=15.7, fp16=125, gb_per_s=900, interconnect="NVLink"),
        Variant(16, "NVIDIA V100 data sheet, 2020", 2017, "PCIe", fp32=14, fp16=112, gb_per_s=900),
        Variant(16, _RUNPOD, 2018, "FHHL"),
    ), ("V100-16GB", "V100-SXM2-16GB", "V100-PCIE-16GB", "V100-SXM2", "V100-FHHL-16GB", "V100-FHHL")),
    Gpu("V100-32GB", (
        Variant(32, "NVIDIA V100 data sheet, 2020", 2018, "SXM2", fp32=15.7, fp16=125, gb_per_s=900, interconnect="NVLink"),
        Variant(32, "NVIDIA V100 data sheet, 2020", 2018, "PCIe", fp32=14, fp16=112, gb_per_s=900),
        Variant(32, "NVIDIA V100S data sheet, 2020", 2019, "V100S PCIe", fp32=16.4, fp16=130),
    ), ("V100-SXM2-32GB", "V100-SXM3-32GB", "V100-PCIE-32GB", "V100S-PCIE-32GB", "V100S")),
    Gpu("RTX2080Ti", (Variant(11, "NVIDIA Turing architecture paper, 2018", 2018, fp16=53.8, gb_per_s=616),), ("2080Ti",)),
    Gpu("RTX3060", (Variant(12, _GEFORCE, 2021, gb_per_s=360), Variant(8, _GEFORCE, 2022, gb_per_s=240)), ("3060",)),
    Gpu("RTX3060Ti", (Variant(8, _GEFORCE, 2020, gb_per_s=448),), ("3060Ti",)),
    Gpu("RTX3070", (Variant(8, _GA102, 2020, bf16=40.6, gb_per_s=448),), ("3070",)),
    Gpu("RTX3070Ti", (Variant(8, _GEFORCE, 2021, gb_per_s=608),), ("3070Ti",)),
    Gpu("RTX3080", (Variant(10, _GA102, 2020, bf16=59.5, gb_per_s=760), Variant(12, _GEFORCE, 2022, gb_per_s=912)), ("3080",)),
    Gpu("RTX3080Ti", (Variant(12, _GEFORCE, 2021, gb_per_s=912),), ("3080Ti",)),
    Gpu("RTX3090", (Variant(24, _GA102, 2020, fp32=35.6, bf16=71, gb_per_s=936),), ("3090",)),
    Gpu("RTX3090Ti", (Variant(24, _GEFORCE, 2022, gb_per_s=1008),), ("3090Ti",)),
    Gpu("RTX4060Ti", (Variant(16, _GEFORCE, 2023, gb_per_s=288), Variant(8, _GEFORCE, 2023, gb_per_s=288)), ("4060Ti",)),
    Gpu("RTX4070", (Variant(12, _GEFORCE, 2023, gb_per_s=504),), ("4070",)),
    Gpu("RTX4070S", (Variant(12, _GEFORCE, 2024, gb_per_s=504),), ("4070S", "RTX 4070 SUPER")),
    Gpu("RTX4070Ti", (Variant(12, _GEFORCE, 2023, gb_per_s=504),), ("4070Ti",)),
    Gpu("RTX4070TiS", (Variant(16, _GEFORCE, 2024, gb_per_s=672),), ("RTX 4070 Ti SUPER", "RTX 4070S Ti")),
    Gpu("RTX4080", (Variant(16, _ADA, 2022, bf16=97.5, gb_per_s=716.8),), ("4080",)),
    Gpu("RTX4080S", (Variant(16, _GEFORCE, 2024, gb_per_s=736),), ("4080S", "RTX 4080 SUPER")),
    Gpu("RTX4090", (Variant(24, _ADA, 2022, bf16=165.2, fp16=165.2, gb_per_s=1008),), ("4090",)),
    Gpu("RTX5080", (Variant(16, _RTX_BLACKWELL, 2025, bf16=112.6, gb_per_s=960),), ("5080",)),
    Gpu("RTX5090", (Variant(32, _RTX_BLACKWELL, 2025, bf16=209.5, gb_per_s=1792),), ("5090",)),
    Gpu("A10", (Variant(24, "NVIDIA A10 data sheet, 2021", 2021, "PCIe", fp32=31.2, bf16=125, fp16=125, gb_per_s=600),)),
    Gpu("A10G", (Variant(24, "AWS's page of G5 instances (bandwidth)", 2021, "PCIe", gb_per_s=600),)),
    Gpu("A16", (Variant(16, "NVIDIA A16 data sheet, 2021 (per GPU of four)", 2021, "PCIe", bf16=17.9, gb_per_s=200),)),
    Gpu("A30", (Variant(24, "NVIDIA A30 data sheet, 2021", 2021, "PCIe", bf16=165, gb_per_s=933, interconnect="NVLink"),)),
    Gpu("A40", (
        Variant(48, "NVIDIA A40 data sheet, 2021", 2020, "PCIe", fp32=37.4, tf32=74.8, bf16=149.7, fp16=149.7, gb_per_s=696,
                interconnect="NVLink, 112.5 GB/s"),
    )),
    Gpu("A2000", (Variant(6, _RUNPOD, 2021, "PCIe"), Variant(12, "NVIDIA RTX A2000 12GB product page", 2021, "PCIe")), ("RTXA2000",)),
    Gpu("A4000", (Variant(16, "NVIDIA RTX A4000 data sheet, 2021 (half of its sparse figure)", 2021, "PCIe", bf16=76.7, gb_per_s=448),), ("RTXA4000",)),
    Gpu("A4500", (Variant(20, "NVIDIA RTX A4500 product page (bandwidth)", 2021, "PCIe", gb_per_s=640),), ("RTXA4500",)),
    Gpu("A5000", (Variant(24, "NVIDIA RTX A5000 data sheet, 2021 (half of its sparse figure)", 2021, "PCIe", bf16=111.1, gb_per_s=768),), ("RTXA5000",)),
    Gpu("A6000", (Variant(48, _GA102, 2020, "PCIe", bf16=154.8, gb_per_s=768, interconnect="NVLink, 112.5 GB/s"),), ("RTXA6000",)),
    Gpu("RTX2000Ada", (Variant(16, _RUNPOD, 2024, "PCIe"),), ("RTX 2000 Ada Generation", "2000Ada")),
    Gpu("RTX4000Ada", (Variant(20, _RUNPOD, 2023, "PCIe"),), ("RTX 4000 Ada Generation", "RTX 4000 SFF Ada Generation", "RTX 4000 Ada SFF", "4000Ada")),
    Gpu("RTX5000Ada", (Variant(32, _RUNPOD, 2023, "PCIe"),), ("RTX 5000 Ada Generation", "5000Ada")),
    Gpu("RTX6000Ada", (
        Variant(48, "NVIDIA RTX 6000 Ada data sheet, 2023 (a quarter of its sparse FP8 figure)", 2022, "PCIe", bf16=364.2, gb_per_s=960),
    ), ("RTX 6000 Ada Generation", "6000Ada")),
    Gpu("RTXPRO6000", (Variant(96, "NVIDIA RTX PRO 6000 Blackwell product page (memory)", 2025, "PCIe"),), (
        "RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Workstation Edition",
        "RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell", "RTX PRO 6000 WS", "RTX PRO 6000 S",
    )),
    Gpu("L4", (Variant(24, "NVIDIA L4 data sheet, 2023 (half of its sparse figures)", 2023, "PCIe", fp32=30.3, tf32=60, bf16=121, gb_per_s=300),)),
    Gpu("L40", (Variant(48, "NVIDIA L40 data sheet, 2022", 2022, "PCIe", fp32=90.5, tf32=90.5, bf16=181.05, fp16=181.05, gb_per_s=864),)),
    Gpu("L40S", (Variant(48, "NVIDIA L40S data sheet, 2023", 2023, "PCIe", fp32=91.6, tf32=183, bf16=362.05, fp16=362.05, gb_per_s=864),)),
    Gpu("A100", (
        Variant(40, _A100_WP, 2020, "SXM4", fp32=19.5, tf32=156, bf16=312, fp16=312, gb_per_s=1555, interconnect="NVLink 3, 600 GB/s"),
        Variant(40, "NVIDIA A100 data sheet, 2021", 2020, "PCIe", fp32=19.5, tf32=156, bf16=312, fp16=312, gb_per_s=1555),
    ), ("A100-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB", "A100 SXM 40GB")),
    Gpu("A100-80GB", (
        Variant(80, "NVIDIA A100 data sheet, 2021", 2020, "SXM4", fp32=19.5, tf32=156, bf16=312, fp16=312, gb_per_s=2039, interconnect="NVLink 3, 600 GB/s"),
        Variant(80, "NVIDIA A100 data sheet, 2021", 2021, "PCIe", fp32=19.5, tf32=156, bf16=312, fp16=312, gb_per_s=1935),
    ), ("A100-SXM4-80GB", "A100-80GB-PCIe", "A100-PCIE-80GB", "A100-SXM-80GB", "A100-80GB-SXM4", "A100 SXM", "A100 SXM4", "A100 PCIe", "A100X")),
    Gpu("H100", (
        Variant(80, _H100, 2022, "SXM5", fp32=67, tf32=494.7, bf16=989.4, fp16=989.4, gb_per_s=3350, interconnect="NVLink 4, 900 GB/s"),
        Variant(80, _H100, 2022, "PCIe", fp32=51, tf32=378, bf16=756, fp16=756, gb_per_s=2000),
        Variant(94, "NVIDIA H100 product page, 2024 (half of its sparse figure)", 2023, "NVL", bf16=835, gb_per_s=3900),
    ), ("H100-80GB", "H100-SXM", "H100-SXM5", "H100-PCIe", "H100-80GB-HBM3", "H100-NVL", "H100NVL", "H100-MEGA", "H100-MEGA-80GB", "H100-80GB-HBM2e")),
    Gpu("H200", (
        Variant(141, "NVIDIA H200 data sheet, 2024", 2023, "SXM5", fp32=67, bf16=989.4, fp16=989.4, gb_per_s=4800, interconnect="NVLink 4, 900 GB/s"),
    ), ("H200-SXM", "H200-141GB", "H200-NVL", "H200NVL", "H200-SXM-141GB")),
    Gpu("GH200", (Variant(96, "NVIDIA GH200 data sheet, 2023", 2023, "superchip", bf16=989.4, gb_per_s=4000),), ("GH200-96GB", "GH200-480GB", "GH200-SXM")),
    Gpu("B200", (
        Variant(180, _BLACKWELL, 2024, "SXM6", fp32=80, tf32=1100, bf16=2250, fp16=2250, gb_per_s=7700, interconnect="NVLink 5, 1800 GB/s"),
    ), ("B200-SXM", "B200-180GB")),
    Gpu("B300", (
        Variant(288, _BLACKWELL, 2025, "SXM6", fp32=75, tf32=1100, bf16=2250, fp16=2250, gb_per_s=8000, interconnect="NVLink 5, 1800 GB/s"),
    ), ("B300-SXM", "B300-SXM6-AC")),
    Gpu("MI250X", (Variant(128, "AMD Instinct MI250X data sheet, 2021", 2021, "OAM", bf16=383, fp16=383, gb_per_s=3277),), ("MI250",)),
    Gpu("MI300X", (Variant(192, "AMD Instinct MI300X data sheet, 2023", 2023, "OAM", bf16=1307.4, fp16=1307.4, gb_per_s=5300),), ("MI300X OAM",)),
    Gpu("MI325X", (Variant(256, "AMD Instinct MI325X data sheet, 2024", 2024, "OAM", bf16=1307.4, fp16=1307.4, gb_per_s=6000),), ("MI325X OAM",)),
)  # fmt: skip
