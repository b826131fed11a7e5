"""What job files of either kind say alike: names, money, the workers wanted, limits, data."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from market.checking import MAX_DATA_BYTES, MAX_VRAM_GIB, MAX_WORKERS
from market.form_errors import FormError
from market.form_sections import StrictForm
from market.hardware import MAX_UNITS, UnknownGpu, canonical_name
from market.packing import Packed, PackingError, pack, pack_stdlib
from storage.units import MoneyError, parse_usd

MAX_PRICE_USD: Final = 1_000
MAX_BUDGET_USD: Final = 1_000_000
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Upload = Callable[[Path], str]
"""Sends a file to the market and answers its digest; `forms.digest_only` for a dry run."""


def refuse(message: str, remedy: str = "") -> PydanticCustomError:
    """What `form_error` tells with the field and its value."""
    return PydanticCustomError("torg", "{text}", {"text": message, "remedy": remedy})


FREE: Final = object()
"""The price and the budget of a job that runs on machines of its own customer alone; no file can say it."""


def _nanos(most_usd: int, unit: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        allowed = f"allowed: above 0 to {most_usd} dollars{unit}"
        if value is FREE:
            return 0
        if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
            raise refuse("is not an amount of dollars", allowed)
        if isinstance(value, float) and not math.isfinite(value):
            raise refuse("is not an amount of dollars", allowed)
        try:
            nanos = parse_usd(value)
        except MoneyError as error:
            words = "cannot be negative" if error.code == "negative" else error.message.removeprefix(f"{value!r} ")
            raise refuse(words, allowed) from None
        if not 0 < nanos <= most_usd * 1_000_000_000:
            raise refuse("is out of range", allowed)
        return nanos

    return read


def _gpu(value: object) -> str:
    if not isinstance(value, str):
        raise refuse("is not a GPU model", "such as A100, RTX4090 or cpu")
    try:
        return canonical_name(value)
    except UnknownGpu as error:
        near = " or ".join(error.nearest)
        raise refuse(
            "is no known GPU model", f"did you mean {near}?" if near else "such as A100, RTX4090 or cpu"
        ) from None


def as_text(value: object) -> object:
    """A number as it is written; YAML reads `4` as one."""
    return str(value) if isinstance(value, int | float) else value


def listed(value: object) -> object:
    """One text as a list of it."""
    return [value] if isinstance(value, str) else value


Price = Annotated[int, BeforeValidator(_nanos(MAX_PRICE_USD, " per GPU-hour"))]
Budget = Annotated[int, BeforeValidator(_nanos(MAX_BUDGET_USD, ""))]
GpuName = Annotated[str, BeforeValidator(_gpu)]
ShortName = Annotated[str, Field(pattern=NAME)]
Tags = Annotated[dict[ShortName, Annotated[str, BeforeValidator(as_text), Field(max_length=128)]], Field(max_length=32)]


class WorkersForm(StrictForm):
    min: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | None = None
    gpus: Annotated[int, Field(ge=1, le=MAX_UNITS)] = 1
    gpu: Annotated[list[GpuName], BeforeValidator(listed), Field(max_length=64)] = Field(default_factory=list)
    vram_gib: Annotated[float, Field(ge=0, le=MAX_VRAM_GIB)] = 0
    region: Annotated[list[ShortName], BeforeValidator(listed), Field(max_length=64)] = Field(default_factory=list)
    reliability: Annotated[float, Field(ge=0, le=1)] = 0
    isolation: Literal["process", "sandbox"] = "process"
    own: Annotated[list[ShortName], BeforeValidator(listed), Field(max_length=64)] = Field(default_factory=list)
    available_hours: Annotated[float, Field(gt=0, le=87_600)] | None = None
    movable: bool = False
    grow_below_usd_per_gpu_hour: Price | None = None

    @model_validator(mode="after")
    def _in_order(self) -> WorkersForm:
        if self.max is not None and self.max < self.min:
            raise refuse(f"min is {self.min} and max is {self.max}", "max must not be below min")
        return self

    def spec(self) -> dict[str, Any]:
        """As the normalised spec has it."""
        return {
            "min": self.min,
            "max": self.max if self.max is not None else self.min,
            "gpus": self.gpus,
            "gpu": sorted(set(self.gpu)),
            "vram_gib": self.vram_gib,
            "region": sorted(set(self.region)),
            "reliability": self.reliability,
            "isolation": self.isolation,
            **({"own": sorted(set(self.own))} if self.own else {}),
            **({"movable": True} if self.movable else {}),
            **({"available_ms": _hours_ms(self.available_hours)} if self.available_hours is not None else {}),
            **(
                {"grow_below_nanos_per_gpu_hour": self.grow_below_usd_per_gpu_hour}
                if self.grow_below_usd_per_gpu_hour is not None
                else {}
            ),
        }


class LimitsForm(StrictForm):
    max_usd_per_gpu_hour: Price
    budget_usd: Budget
    deadline_hours: Annotated[float, Field(gt=0, le=87_600)] | None = None
    interruptible: bool = False

    def spec(self) -> dict[str, Any]:
        """As the normalised spec has it."""
        hours = self.deadline_hours
        return {
            "max_price_nanos_per_gpu_hour": self.max_usd_per_gpu_hour,
            "budget_nanos": self.budget_usd,
            "deadline_ms": None if hours is None else _hours_ms(hours),
            **({"interruptible": True} if self.interruptible else {}),
        }


def _hours_ms(hours: float) -> int:
    return max(1, round(hours * 3_600_000))


class OwnMachines(StrictForm):
    """A job file that may name its customer's own machines (`workers: {own: NAME}`): it has no price and no budget then."""

    @model_validator(mode="before")
    @classmethod
    def _costs_nothing(cls, said: Any) -> Any:
        workers = said.get("workers") if isinstance(said, dict) else None
        if not (isinstance(workers, dict) and workers.get("own")):
            return said
        limits = said.get("limits") or {}
        if not isinstance(limits, dict):
            return said
        for name in ("max_usd_per_gpu_hour", "budget_usd"):
            if limits.get(name) not in (None, 0, FREE):
                raise refuse(f"says workers.own and limits.{name}", "machines of your own cost nothing: leave it out")
        return {**said, "limits": {**limits, "max_usd_per_gpu_hour": FREE, "budget_usd": FREE}}


def resolve_data(data: str, upload: Upload, folder: Path) -> dict[str, Any]:
    """The spec's `data` of what a job file says, packed and uploaded; paths are relative to `folder`. Raises FormError."""
    if data == "none":
        return {"kind": "none"}
    if data.startswith("share:"):
        name = data.removeprefix("share:")
        if re.fullmatch(NAME, name) is None:
            raise FormError("data", data, "names no share", "write share:NAME")
        return {"kind": "share", "name": name}
    with tempfile.TemporaryDirectory(prefix="torg-pack-") as scratch:
        packed = _packed(data, folder, Path(scratch) / "data.tar")
        _check_data_size(data, packed.bytes)
        digest = upload(packed.path)
    assert digest == packed.digest, "the market has other bytes than were packed"
    return {"kind": "blob", "digest": packed.digest, "bytes": packed.bytes, "label": packed.label}


def _check_data_size(data: str, size: int) -> None:
    if size > MAX_DATA_BYTES:
        remedy = f"at most {MAX_DATA_BYTES} (2 GiB); a provider can name more as share:NAME"
        raise FormError("data", data, f"has {size} bytes", remedy)


def _packed(data: str, folder: Path, target: Path) -> Packed:
    try:
        if data == "stdlib":
            return pack_stdlib(target)
        source = (folder / Path(data).expanduser()).resolve()
        # Before gigabytes are copied for nothing; what cannot be packed at all, `pack` says.
        parts = source.rglob("*") if source.is_dir() else [source]
        _check_data_size(data, sum(part.lstat().st_size for part in parts if part.is_file()))
        return pack(source, target)
    except PackingError as error:
        remedy = "a file, a folder, stdlib, none or share:NAME"
        raise FormError("data", data, f"cannot be packed: {error}", remedy) from None
