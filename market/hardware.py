"""Names of GPUs: what people, drivers and other markets call them, and what people write when they ask for cards.

The data are in `market/gpu_catalogue.py`. `cpu` is one core; what it does is measured, not looked up.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from market.gpu_catalogue import GPUS, Gpu

__all__ = ["CATALOGUE", "GPUS", "BadRequest", "Gpu", "GpuRequest", "UnknownGpu", "canonical_name", "listed_name", "name_of_product", "offered_name", "parse_request"]

MAX_UNITS: Final = 4_096
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


def listed_name(name: str) -> str:
    """The catalogue's name, or the one given where the catalogue knows none: a provider may list other cards."""
    try:
        return canonical_name(name)
    except UnknownGpu:
        return name


def offered_name(name: str, vram_gib: float) -> str:
    """The name under which an offer is listed: the catalogue's for any of a model's names, by size where that says which."""
    known = listed_name(name)
    return name_of_product(known, vram_gib) if known in CATALOGUE and vram_gib > 0 else known


def name_of_product(product: str, vram_gib: float) -> str:
    """The name under which a driver's product is listed: the catalogue's, by size where a model has two, else its own.

    "NVIDIA A100-SXM4-80GB" → "A100-80GB", "NVIDIA H100 80GB HBM3" → "H100", "NVIDIA Foo 9" → "Foo9".
    """
    words = re.sub(r"^((NVIDIA|Tesla|Quadro|GeForce)\s+)+", "", product.strip())
    short = re.sub(r"[\s-]+(\d+\s*GB|PCIe|SXM\d?|HBM\d\w?|NVL|Laptop|D\b).*$", "", words, flags=re.IGNORECASE)
    found = _BY_KEY.get(_key(product)) or _BY_KEY.get(_key(short))
    if found is None:
        return re.sub(r"[^A-Za-z0-9._-]", "", short)[:64] or "gpu"
    stem = re.sub(r"-\d+GB$", "", found)
    sizes = [gpu for gpu in GPUS if gpu.name == stem or gpu.name.startswith(stem + "-")]
    return min(sizes, key=lambda gpu: min(abs(one.vram_gib - vram_gib) for one in gpu.variants)).name


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
