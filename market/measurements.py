"""Whether a machine is what it says, by what was measured on it. Pure; the catalogue says what a model makes.

A matrix product of a good library reaches 65 to 85 % of a card's dense peak, a large copy 80 to 93 % of its bandwidth.
So a card must show LEAST_MATMUL_SHARE and LEAST_BANDWIDTH_SHARE of what its weakest variant has at its peak, which leaves
room for heat and power limits, and not more than MOST_SHARE of what its strongest has, which nothing real does. A core, or
a card that the catalogue has no figures of, is held against what no machine does, and against itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from market.hardware import CATALOGUE, GPUS, Gpu

MATMUL: Final = "matmul_mflops_per_unit"
MEMORY: Final = "memory_mbytes_per_second"
LEAST_MATMUL_SHARE: Final = 0.4
LEAST_BANDWIDTH_SHARE: Final = 0.6
MOST_SHARE: Final = 1.25
MOST_VRAM_SHARE: Final = 1.05
MOST_CORE_GFLOPS: Final = 2_000
MOST_CORE_GB_PER_S: Final = 1_000
STRIKES: Final = 2
"""So many low measurements in a row put an offer in doubt."""
LEAST_OF_ITS_OWN: Final = 1 / 3
"""A machine that measures below this share of what it measured when it was listed is not what it was."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """What does not fit: the field of the offer, and sentences for people."""

    field: str
    message: str
    remedy: str


def doubt_of(gpu: str, gpus: int, vram_gib: float, measured: Mapping[str, float]) -> Doubt | None:
    """What an offer says that its own figures do not bear out; figures that are missing bear out nothing and deny nothing."""
    if gpu == "cpu":
        return _doubt_of_cores(gpus, measured)
    model = CATALOGUE.get(gpu)
    if model is None:
        return None
    if vram_gib > model.most_vram_gib * MOST_VRAM_SHARE:
        told = f"an {gpu} has {model.most_vram_gib:g} GiB of memory, and the offer says {vram_gib:g}"
        return Doubt("vram_gib", told, "say what the driver reports, or list a changed card under a name of its own")
    return _doubt_of_card(model, measured)


def fallen(first: Mapping[str, float], now: Mapping[str, float]) -> Doubt | None:
    """What is far below the same machine's own figure of when it was listed."""
    for name, unit, factor in ((MATMUL, "GFLOP/s", 1e3), (MEMORY, "GB/s", 1e3)):
        before, found = first.get(name), now.get(name)
        if before and found is not None and found < before * LEAST_OF_ITS_OWN:
            told = f"{_short(found / factor)} {unit} were measured, {_short(before / factor)} when it was listed"
            return Doubt(f"measured.{name}", f"{told}: less than a third", "free the machine of other work, or list it anew")
    return None


def _doubt_of_card(model: Gpu, measured: Mapping[str, float]) -> Doubt | None:
    matmul, memory = measured.get(MATMUL), measured.get(MEMORY)
    checks = (
        (MATMUL, matmul, model.tflops, model.most_tflops, LEAST_MATMUL_SHARE, 1e6, "TFLOP/s"),
        (MEMORY, memory, model.gb_per_s, model.most_gb_per_s, LEAST_BANDWIDTH_SHARE, 1e3, "GB/s of memory bandwidth"),
    )
    for name, found, least_peak, most_peak, share, factor, unit in checks:
        if found is None or least_peak is None or most_peak is None:
            continue
        value = found / factor
        if value < least_peak * share:
            told = f"an {model.name} has {least_peak:g} {unit} at its peak, and {_short(value)} were measured"
            told += f": {value / least_peak:.0%}, at least {share:.0%} is expected"
            alike = " or ".join(_alike(matmul, memory))
            remedy = f"it measures like {alike}: list it as that" if alike else "list it as what it is"
            return Doubt(f"measured.{name}", told, f"{remedy}; or free it of other work and let it cool, then list it again")
        if value > most_peak * MOST_SHARE:
            told = f"an {model.name} has {most_peak:g} {unit} at its peak, and {_short(value)} are said to be measured"
            return Doubt(f"measured.{name}", told, "list it as what it is")
    return None


def _doubt_of_cores(units: int, measured: Mapping[str, float]) -> Doubt | None:
    cores = measured.get("cores")
    if cores is not None and units > cores:
        return Doubt("gpus", f"the offer has {units} cores, and the machine {cores:g}", f"offer at most {cores:g}")
    for name, factor, most, unit in (
        (MATMUL, 1e3, MOST_CORE_GFLOPS, "GFLOP/s"), (MEMORY, 1e3, MOST_CORE_GB_PER_S, "GB/s")
    ):  # fmt: skip
        found = measured.get(name)
        if found is not None and found / factor > most:
            told = f"no core makes more than {most} {unit}, and {_short(found / factor)} are said to be measured"
            return Doubt(f"measured.{name}", told, "measure one core: torg provide does")
    return None


def _alike(matmul: float | None, memory: float | None) -> list[str]:
    """At most two models whose peaks fit what was measured, the likeliest first: at 75 and 87 % of them."""
    found: list[tuple[float, str]] = []
    for model in GPUS:
        if model.name == "cpu" or not (matmul and memory and model.tflops and model.gb_per_s):
            continue
        off = [math.log(matmul / 1e6 / model.tflops / 0.75), math.log(memory / 1e3 / model.gb_per_s / 0.87)]
        if max(map(abs, off)) < math.log(1.4):
            found.append((sum(map(abs, off)), model.name))
    return [name for _, name in sorted(found)[:2]]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
