"""What a provider's host process is told, and what it finds out about its machine before it starts anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

GIBIBYTE = 2**30


class RayAccess(BaseModel):
    """Where Ray is and the file (0600) with its token, for a host that is not to ask the market."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    token_path: Path


class HostConfig(BaseModel):
    """The configuration file of `python -m market.actors.provider_host`, JSON, mode 0600 because it holds a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    key: str = Field(repr=False)
    offer: str
    name: str
    home: Path
    price_nanos_per_gpu_hour: int
    floor_price_nanos_per_gpu_hour: int | None = None
    gpu: str = "auto"
    units: int | None = Field(default=None, ge=1, le=1024)
    vram_gib: float | None = Field(default=None, ge=0)
    region: str = "local"
    shares: dict[str, Path] = {}
    ray: RayAccess | None = None
    node_ip: str | None = None
    isolation: str = Field(default="auto", pattern="^(auto|sandbox|process)$")
    memory_limit_bytes: int = Field(default=4 * GIBIBYTE, ge=2**28)
    object_store_bytes: int = Field(default=150 * 2**20, ge=2**26)
    drain_s: float = Field(default=15.0, ge=0)
    orphan_after_s: float = Field(default=120.0, gt=0)


class ConfigRefused(Exception):
    """The configuration file cannot be used; the text says why and what to do."""


def read_config(path: Path) -> HostConfig:
    """Read and check the file. Raises ConfigRefused when others may read it (it holds a key) or it does not fit."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigRefused(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigRefused(f"{path} holds a key and has mode {mode:o}; run: chmod 600 {path}")
    try:
        return HostConfig.model_validate_json(text)
    except ValueError as error:
        raise ConfigRefused(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is offered: `units` cards, or cores when `gpu` is "cpu"; VRAM in GiB per card."""

    gpu: str
    units: int
    vram_gib: float

    @property
    def cuda(self) -> bool:
        return self.gpu != "cpu"


def find_hardware(config: HostConfig) -> Hardware:
    """The configured hardware; with gpu "auto" what the NVIDIA driver reports, else this machine's cores."""
    if config.gpu != "auto":
        return Hardware(config.gpu, config.units or 1, config.vram_gib or 0.0)
    cards = _nvidia_cards()
    if cards:
        name, vram_gib = cards[0]
        alike = sum(1 for card in cards if card[0] == name)
        return Hardware(name, min(config.units or alike, alike), config.vram_gib or vram_gib)
    cores = os.cpu_count() or 1
    return Hardware("cpu", min(config.units or cores, cores), 0.0)


def canonical_gpu(name: str) -> str:
    """The driver's product name as the market writes it: "NVIDIA GeForce RTX 4090" → "RTX4090", "NVIDIA H100 80GB HBM3"
    → "H100".
    """
    text = re.sub(r"^(NVIDIA|Tesla|Quadro)\s+", "", name.strip())
    text = re.sub(r"^(GeForce|Tesla)\s+", "", text)
    text = re.sub(r"[\s-]+(\d+GB|PCIe|SXM\d?|HBM\d\w?|NVL|Laptop GPU).*$", "", text)
    return text.replace(" ", "")


def _nvidia_cards() -> list[tuple[str, float]]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            (
                canonical_gpu(str(pynvml.nvmlDeviceGetName(handle))),
                round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIBIBYTE, 1),
            )
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def own_versions() -> dict[str, str]:
    """{python, ray, torg} here; imports none of them."""
    return {
        "python": platform.python_version(),
        "ray": importlib.metadata.version("ray"),
        "torg": torg_version(),
    }


def torg_version() -> str:
    """The installed version, or "0" in a checkout that is not installed."""
    try:
        return importlib.metadata.version("torg")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def version_mismatch(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """One line saying what to install so that this machine fits the market, or None if it fits.

    Ray must be the same release; of Python and torg the same minor.
    """
    wrong = []
    for name, parts in (("python", 2), ("ray", 3), ("torg", 2)):
        if name in theirs and _release(ours.get(name, ""), parts) != _release(theirs[name], parts):
            wrong.append(name)
    if not wrong:
        return None
    have = ", ".join(f"{name} {ours.get(name, 'none')}" for name in wrong)
    need = ", ".join(f"{name} {theirs[name]}" for name in wrong)
    packages = " ".join(
        f"'{'torg[node]' if name == 'torg' else name}=={theirs[name]}'" for name in wrong if name != "python"
    )
    steps = ([f"use Python {theirs['python']}"] if "python" in wrong else []) + (
        [f"pip install {packages}"] if packages else []
    )
    return f"this machine has {have}, the market runs {need}: {' and '.join(steps)}"


def _release(version: str, parts: int) -> tuple[str, ...]:
    return tuple(version.split("+", maxsplit=1)[0].split(".")[:parts])


def own_address(towards: str) -> str:
    """This machine's IP address as the host of `towards` ("host:port") sees it; loopback for a loopback host."""
    host, port = towards.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])
