"""The GPU catalogue: canonical names, memory, peaks; and what people write when they ask for cards.

Peaks are the makers' dense figures (no sparsity) per card: `tflops` in bfloat16, or in float16 where the card has no
bfloat16 (`fp16`), or in float32 where it has no matrix units; `gb_per_s` is memory bandwidth. Sources: the data sheets
of NVIDIA and AMD named in `source`. `cpu` is one core; what it does is measured, not looked up.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MAX_UNITS: Final = 4_096


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model. `vram_gib` is as sold: nominal gigabytes."""

    name: str
    vram_gib: float
    tflops: float
    gb_per_s: float
    source: str
    aliases: tuple[str, ...] = ()


GPUS: Final[tuple[Gpu, ...]] = (
    Gpu("cpu", 0, 0, 0, "measured", ("core", "cores")),
    Gpu("P100", 16, 18.7, 732, "NVIDIA Tesla P100 data sheet, 2016 (float16)", ("P100-16GB", "P100-PCIE-16GB")),
    Gpu("T4", 16, 65, 320, "NVIDIA T4 data sheet, 2019 (float16)", ("Tesla T4",)),
    Gpu("V100", 16, 125, 900, "NVIDIA V100 data sheet, 2020 (float16)", ("V100-16GB", "V100-SXM2-16GB", "V100-PCIE-16GB")),
    Gpu("V100-32GB", 32, 125, 900, "NVIDIA V100 data sheet, 2020 (float16)", ("V100-SXM2-32GB", "V100-SXM3-32GB", "V100-PCIE-32GB")),
    Gpu("RTX2080Ti", 11, 53.8, 616, "NVIDIA Turing architecture paper, 2018 (float16)", ("2080Ti",)),
    Gpu("RTX3060", 12, 51, 360, "NVIDIA GA102 architecture paper, 2021", ("3060",)),
    Gpu("RTX3070", 8, 81.3, 448, "NVIDIA GA102 architecture paper, 2021", ("3070",)),
    Gpu("RTX3080", 10, 119, 760, "NVIDIA GA102 architecture paper, 2021", ("3080",)),
    Gpu("RTX3090", 24, 71, 936, "NVIDIA GA102 architecture paper, 2021", ("3090",)),
    Gpu("RTX4060Ti", 16, 88, 288, "NVIDIA Ada architecture paper, 2023", ("4060Ti",)),
    Gpu("RTX4070", 12, 117, 504, "NVIDIA Ada architecture paper, 2023", ("4070",)),
    Gpu("RTX4080", 16, 195, 717, "NVIDIA Ada architecture paper, 2023", ("4080",)),
    Gpu("RTX4090", 24, 165.2, 1008, "NVIDIA Ada architecture paper, 2023", ("4090",)),
    Gpu("RTX5080", 16, 112.6, 960, "NVIDIA Blackwell GeForce architecture paper, 2025", ("5080",)),
    Gpu("RTX5090", 32, 209.5, 1792, "NVIDIA Blackwell GeForce architecture paper, 2025", ("5090",)),
    Gpu("A10", 24, 125, 600, "NVIDIA A10 data sheet, 2021"),
    Gpu("A10G", 24, 70, 600, "AWS G5 and NVIDIA A10G product pages, 2021", ()),
    Gpu("A16", 16, 17.9, 200, "NVIDIA A16 data sheet, 2021 (per GPU of four)"),
    Gpu("A30", 24, 165, 933, "NVIDIA A30 data sheet, 2021"),
    Gpu("A40", 48, 149.7, 696, "NVIDIA A40 data sheet, 2020"),
    Gpu("A4000", 16, 76.7, 448, "NVIDIA RTX A4000 data sheet, 2021", ("RTXA4000",)),
    Gpu("A5000", 24, 111.1, 768, "NVIDIA RTX A5000 data sheet, 2021", ("RTXA5000",)),
    Gpu("A6000", 48, 154.8, 768, "NVIDIA RTX A6000 data sheet, 2021", ("RTXA6000",)),
    Gpu("RTX6000Ada", 48, 364.2, 960, "NVIDIA RTX 6000 Ada data sheet, 2023", ("RTX 6000 Ada Generation", "6000Ada")),
    Gpu("L4", 24, 121, 300, "NVIDIA L4 data sheet, 2023"),
    Gpu("L40", 48, 181, 864, "NVIDIA L40 data sheet, 2022"),
    Gpu("L40S", 48, 362, 864, "NVIDIA L40S data sheet, 2023"),
    Gpu("A100", 40, 312, 1555, "NVIDIA A100 data sheet, 2022", ("A100-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB")),
    Gpu("A100-80GB", 80, 312, 2039, "NVIDIA A100 data sheet, 2022", ("A100-SXM4-80GB", "A100-80GB-PCIe", "A100-SXM-80GB")),
    Gpu("H100", 80, 989.4, 3350, "NVIDIA H100 data sheet, 2023", ("H100-80GB", "H100-SXM", "H100-PCIe", "H100-80GB-HBM3")),
    Gpu("H200", 141, 989.4, 4800, "NVIDIA H200 data sheet, 2024", ("H200-SXM", "H200-141GB", "H200-NVL")),
    Gpu("GH200", 96, 989.4, 4000, "NVIDIA GH200 data sheet, 2023", ("GH200-96GB", "GH200-480GB")),
    Gpu("B200", 180, 2250, 8000, "NVIDIA DGX B200 data sheet, 2024", ("B200-SXM", "B200-180GB")),
    Gpu("B300", 288, 2250, 8000, "NVIDIA DGX B300 data sheet, 2025", ("B300-SXM",)),
    Gpu("MI250X", 128, 383, 3277, "AMD Instinct MI250X data sheet, 2021", ("MI250",)),
    Gpu("MI300X", 192, 1307.4, 5300, "AMD Instinct MI300X data sheet, 2023"),
    Gpu("MI325X", 256, 1307.4, 6000, "AMD Instinct MI325X data sheet, 2024"),
)  # fmt: skip

CATALOGUE: Final[Mapping[str, Gpu]] = MappingProxyType({gpu.name: gpu for gpu in GPUS})


class UnknownGpu(ValueError):
    """No such model in the catalogue; the text names the nearest ones, `nearest` too."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "such as A100, RTX4090 or cpu"
        super().__init__(f"no GPU model {name!r} is known; {hint}")
        self.name = name
        self.nearest = nearest


class BadRequest(ValueError):
    """A text such as `RTX4090:2` that cannot be read; `remedy` says how it is written."""

    remedy = f"auto, cpu:2 or RTX4090:2; 1 to {MAX_UNITS} units"


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`gpu` None: whatever is there; `gpus` None: as many as there are."""

    gpu: str | None
    gpus: int | None


def _key(name: str) -> str:
    text = re.sub(r"^(nvidia|amd|instinct|tesla|quadro|geforce|\s)+", "", name.strip().lower())
    return re.sub(r"[\s_-]+", "", text)


_BY_KEY: Final[Mapping[str, str]] = MappingProxyType(
    {_key(word): gpu.name for gpu in GPUS for word in (gpu.name, *gpu.aliases)}
)


def canonical_name(name: str) -> str:
    """The catalogue's name for what a person or a driver calls a card; raises UnknownGpu with the nearest names."""
    key = _key(name)
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = dict.fromkeys(_BY_KEY[found] for found in difflib.get_close_matches(key, _BY_KEY, n=4, cutoff=0.6))
    raise UnknownGpu(name, tuple(near)[:3])


def name_of_product(product: str, vram_gib: float) -> str:
    """The name under which a driver's product is listed: the catalogue's, by size where a model has two, else its own.

    "NVIDIA A100-SXM4-80GB" → "A100-80GB", "NVIDIA H100 80GB HBM3" → "H100", "NVIDIA Foo 9" → "Foo9".
    """
    try:
        return canonical_name(product)
    except UnknownGpu:
        pass
    words = re.sub(r"^((NVIDIA|Tesla|Quadro|GeForce)\s+)+", "", product.strip())
    short = re.sub(r"[\s-]+(\d+\s*GB|PCIe|SXM\d?|HBM\d\w?|NVL|Laptop|D\b).*$", "", words, flags=re.IGNORECASE)
    found = _BY_KEY.get(_key(short))
    if found is None:
        return re.sub(r"[^A-Za-z0-9._-]", "", short)[:64] or "gpu"
    sizes = [gpu for gpu in GPUS if gpu.name == found or gpu.name.startswith(found + "-")]
    return min(sizes, key=lambda gpu: abs(gpu.vram_gib - vram_gib)).name


def parse_request(text: str) -> GpuRequest:
    """Read `auto`, `2`, `cpu:2` or `RTX4090:2`; a model alone is one of it. Raises BadRequest or UnknownGpu."""
    word = text.strip()
    if word.lower() == "auto":
        return GpuRequest(None, None)
    name, _, count = word.rpartition(":") if ":" in word else (word, "", "1")
    if word.isdecimal():
        name, _, count = "", "", word
    if not (count.isdecimal() and 1 <= int(count) <= MAX_UNITS) or not (name or word.isdecimal()):
        raise BadRequest(f"{text!r} is not understood")
    return GpuRequest(canonical_name(name) if name else None, int(count))
