"""What a provider's host process is told, and what it finds out about its machine before it starts anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from market.actors.cards import GIBIBYTE, Card, Claim, claim, find_cards, torch_devices
from market.hours import parse_hours
from market.idling import DEFAULT_IDLE_FOR_MS, DEFAULT_IDLE_LOAD, IdleRules
from market.owner_terms import DEFAULT_NOTICE_MS, LONGEST_NOTICE_MS, MOST_NAMED
from trainers.outward.rules import MOST_NETWORKS, network


class RayAccess(BaseModel):
    """Where Ray is and the file (0600) with its token, for a host that is not to ask the market."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    token_path: Path


class Watched(BaseModel):
    """The owner's rules of when its machine is for rent (market/idling.py); hours as `market.hours` reads them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by_use: bool = True
    not_between: list[str] = Field(default=[], max_length=32)
    idle_for_ms: int = Field(default=DEFAULT_IDLE_FOR_MS, ge=0, le=7 * 86_400_000)
    idle_load: float = Field(default=DEFAULT_IDLE_LOAD, gt=0, le=1)
    ignore: list[str] = Field(default=[], max_length=64)

    @field_validator("not_between")
    @classmethod
    def _are_hours(cls, texts: list[str]) -> list[str]:
        return [str(parse_hours(text)) for text in texts]

    def rules(self) -> IdleRules:
        """For the decision."""
        hours = tuple(parse_hours(text) for text in self.not_between)
        return IdleRules(self.by_use, hours, self.idle_for_ms, self.idle_load)


class PriceHours(BaseModel):
    """A price that is asked in these hours of the offer's `zone`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hours: str
    price_nanos_per_gpu_hour: int


class HostConfig(BaseModel):
    """The configuration file of `python -m market.actors.provider_host`, JSON, mode 0600 because it holds a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    key: str = Field(repr=False)
    ca: Path | None = None
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
    selftest: bool = True
    memory_limit_bytes: int = Field(default=4 * GIBIBYTE, ge=2**28)
    object_store_bytes: int = Field(default=150 * 2**20, ge=2**26)
    drain_s: float = Field(default=15.0, ge=0)
    notice_ms: int = Field(default=DEFAULT_NOTICE_MS, ge=0, le=LONGEST_NOTICE_MS)
    until_ms: int | None = Field(default=None, ge=1)
    prices: list[PriceHours] = Field(default=[], max_length=32)
    zone: str = ""
    allow: list[str] = Field(default=[], max_length=MOST_NAMED)
    deny: list[str] = Field(default=[], max_length=MOST_NAMED)
    own: list[str] = Field(default=[], max_length=MOST_NAMED)
    max_units_per_customer: int | None = Field(default=None, ge=1)
    max_unit_ms_per_customer_day: int | None = Field(default=None, ge=1)
    min_lease_ms: int | None = Field(default=None, ge=1)
    max_lease_ms: int | None = Field(default=None, ge=1)
    maintenance: list[str] = Field(default=[], max_length=32)
    watched: Watched | None = None
    environments: bool = True
    environments_bytes: int = Field(default=20 * GIBIBYTE, ge=2**20)
    network: bool = False
    network_allow: list[str] = Field(default=[], max_length=MOST_NETWORKS)
    network_deny: list[str] = Field(default=[], max_length=MOST_NETWORKS)
    orphan_after_s: float = Field(default=120.0, gt=0)

    @field_validator("network_allow", "network_deny")
    @classmethod
    def _are_networks(cls, texts: list[str]) -> list[str]:
        return [str(network(text)) for text in texts]

    def environment_store(self) -> dict[str, str | int] | None:
        """For the workers: where environments are kept, and how much of them; None for none."""
        if not self.environments:
            return None
        return {"root": str(Path(self.home) / "environments"), "limit_bytes": self.environments_bytes}

    def way_out(self) -> dict[str, list[str]] | None:
        """For the workers: the fields of `OutwardRules`, or None for no way out."""
        return {"allowed": self.network_allow, "denied": self.network_deny} if self.network else None


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
    """What is offered: `units` cards, or cores when `gpu` is "cpu"; VRAM in GiB per card.

    `claims`: the cards, which no other provider of this machine offers while they are kept. `threads_per_unit`: CPU
    threads for each unit that a worker is leased.
    """

    gpu: str
    units: int
    vram_gib: float
    claims: tuple[Claim, ...] = ()
    threads_per_unit: int = 1

    @property
    def cuda(self) -> bool:
        return self.gpu != "cpu"


def find_hardware(
    config: HostConfig,
    cards: Callable[[], Sequence[Card]] = find_cards,
    usable: Callable[[Sequence[Card]], tuple[int, str]] = torch_devices,
) -> Hardware:
    """What this machine offers: the configured units, or with gpu "auto" its cards of one model, else its cores.

    `cards` reports what is there, `usable` how many of given ones torch can use and torch's version. Raises ConfigRefused
    when cards are asked for that are not there, are offered by another provider already, or would not train.
    """
    cores = os.cpu_count() or 1
    if config.gpu == "cpu":
        return Hardware("cpu", config.units or 1, 0.0)
    there = cards()
    if config.gpu == "auto" and not there:
        return Hardware("cpu", min(config.units or cores, cores), 0.0)
    model = there[0].model if config.gpu == "auto" else config.gpu
    alike = [card for card in there if card.model == model]
    wanted = config.units or len(alike)
    if not alike or wanted > len(alike):
        names = ", ".join(card.model for card in there) or "no card that the NVIDIA driver reports"
        raise ConfigRefused(f"{max(1, wanted)} x {model} cannot be offered: this machine has {names}")
    count, version = usable(alike)
    if count < len(alike):
        raise ConfigRefused(
            f"{model} cannot be offered: torch {version} here can use {count} of {len(alike)} cards; install a torch "
            "with CUDA that fits the driver, or offer cores with --gpus cpu:N"
        )
    claims = claim(alike, config.units)
    if len(claims) < (config.units or 1):
        for one in claims:
            one.release()
        raise ConfigRefused(
            f"{len(alike) - len(claims)} of {len(alike)} x {model} are offered by another provider here"
        )
    vram_gib = config.vram_gib or min(one.card.vram_gib for one in claims)
    return Hardware(model, len(claims), vram_gib, claims, threads_per_unit=max(1, cores // len(there)))


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
