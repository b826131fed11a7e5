"""Job files and offers as people write them, and the one normalised spec that everything behind them reads.

A form that cannot be taken raises FormError: which field, what it held, what is allowed, and what to do.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from market.checking import MAX_DATA_BYTES, MAX_ROUNDS, MAX_STEPS, MAX_VRAM_GIB, MAX_WORKERS
from market.form_errors import FormError, form_error
from market.form_sections import (
    CheckpointForm,
    EvaluateForm,
    Form,
    StrategyOptions,
    StrictForm,
    TrainForm,
    option_refusal,
)
from market.hardware import MAX_UNITS, UnknownGpu, canonical_name
from market.packing import Packed, PackingError, pack, pack_stdlib
from storage.units import MoneyError, parse_usd
from trainers.options import OptionError, round_steps, strategy_options
from trainers.workloads import BUILT_IN
from trainers.workloads.options import WORKLOADS, workload_options

DEFAULT_DATA: Final = {"byte_lm": "stdlib"}
"""What is packed for a built-in workload whose job names no data."""
MAX_FILE_BYTES: Final = 256 * 1024
MAX_SOURCE_BYTES: Final = 1024 * 1024
MAX_PRICE_USD: Final = 1_000
MAX_BUDGET_USD: Final = 1_000_000
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Upload = Callable[[Path], str]
"""Sends a file to the market and answers its digest; `digest_only` for a dry run."""


def _refuse(message: str, remedy: str = "") -> PydanticCustomError:
    return PydanticCustomError("torg", "{text}", {"text": message, "remedy": remedy})


def _nanos(most_usd: int, unit: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        allowed = f"allowed: above 0 to {most_usd} dollars{unit}"
        if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
            raise _refuse("is not an amount of dollars", allowed)
        if isinstance(value, float) and not math.isfinite(value):
            raise _refuse("is not an amount of dollars", allowed)
        try:
            nanos = parse_usd(value)
        except MoneyError as error:
            words = "cannot be negative" if error.code == "negative" else error.message.removeprefix(f"{value!r} ")
            raise _refuse(words, allowed) from None
        if not 0 < nanos <= most_usd * 1_000_000_000:
            raise _refuse("is out of range", allowed)
        return nanos

    return read


def _gpu(value: object) -> str:
    if not isinstance(value, str):
        raise _refuse("is not a GPU model", "such as A100, RTX4090 or cpu")
    try:
        return canonical_name(value)
    except UnknownGpu as error:
        near = " or ".join(error.nearest)
        raise _refuse(
            "is no known GPU model", f"did you mean {near}?" if near else "such as A100, RTX4090 or cpu"
        ) from None


def _tag(value: object) -> object:
    return str(value) if isinstance(value, int | float) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Price = Annotated[int, BeforeValidator(_nanos(MAX_PRICE_USD, " per GPU-hour"))]
Budget = Annotated[int, BeforeValidator(_nanos(MAX_BUDGET_USD, ""))]
GpuName = Annotated[str, BeforeValidator(_gpu)]
ShortName = Annotated[str, Field(pattern=NAME)]


class WorkersForm(StrictForm):
    min: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | None = None
    gpus: Annotated[int, Field(ge=1, le=MAX_UNITS)] = 1
    gpu: Annotated[list[GpuName], BeforeValidator(_listed), Field(max_length=64)] = Field(default_factory=list)
    vram_gib: Annotated[float, Field(ge=0, le=MAX_VRAM_GIB)] = 0
    region: Annotated[list[ShortName], BeforeValidator(_listed), Field(max_length=64)] = Field(default_factory=list)
    reliability: Annotated[float, Field(ge=0, le=1)] = 0
    isolation: Literal["process", "sandbox"] = "process"

    @model_validator(mode="after")
    def _in_order(self) -> WorkersForm:
        if self.max is not None and self.max < self.min:
            raise _refuse(f"min is {self.min} and max is {self.max}", "max must not be below min")
        return self


class LimitsForm(StrictForm):
    max_usd_per_gpu_hour: Price
    budget_usd: Budget
    deadline_hours: Annotated[float, Field(gt=0, le=87_600)] | None = None


class JobFile(StrictForm):
    """A job as people write it (YAML); docs/FORMATS.md and examples/ show every field."""

    name: ShortName
    workload: Annotated[str, Field(min_length=1, max_length=1_000)]
    options: dict[str, Any] = Field(default_factory=dict)
    data: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    strategy: StrategyOptions = Field(default_factory=lambda: strategy_options({}))
    train: TrainForm = TrainForm()
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    until_loss: Annotated[float, Field(gt=0, le=1e9)] | None = None
    workers: WorkersForm = WorkersForm()
    limits: LimitsForm
    checkpoint: CheckpointForm = CheckpointForm()
    evaluate: EvaluateForm = EvaluateForm()
    seed: Annotated[int, Field(ge=0, le=2**53)] = 1
    tags: Annotated[
        dict[ShortName, Annotated[str, BeforeValidator(_tag), Field(max_length=128)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    wait: bool = False

    @model_validator(mode="after")
    def _has_length(self) -> JobFile:
        if self.steps is None and self.tokens is None:
            raise _refuse("says neither steps nor tokens", "say how long to train: steps: 600 (per worker)")
        if self.steps is not None and self.tokens is not None:
            raise _refuse("says steps and tokens", "say one of them")
        return self

    @model_validator(mode="after")
    def _has_room_for_processes(self) -> JobFile:
        if self.train.processes > self.workers.gpus:
            remedy = f"each has a card or core of its own: at most workers.gpus, which is {self.workers.gpus}"
            error = OptionError("train.processes", self.train.processes, "are more than a worker has", remedy)
            raise option_refusal(error)
        return self


class OfferForm(StrictForm):
    """An offer as people write it; what the machine has and does is measured beside it."""

    name: ShortName
    gpu: GpuName
    gpus: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    price_usd_per_gpu_hour: Price
    floor_usd_per_gpu_hour: Price | None = None
    region: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    vram_gib: Annotated[float, Field(ge=0, le=MAX_VRAM_GIB)] = 0
    isolation: Literal["process", "sandbox"] = "process"
    shares: Annotated[list[ShortName], Field(max_length=64)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _in_order(self) -> OfferForm:
        if self.floor_usd_per_gpu_hour is not None and self.floor_usd_per_gpu_hour > self.price_usd_per_gpu_hour:
            raise _refuse("has a floor above its price", "floor_usd_per_gpu_hour must not be above the price")
        return self


def read_job(path: Path) -> JobFile:
    """The job file at `path`. Raises FormError, also for a file that is missing, too large or no YAML."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FormError("job file", str(path), f"has {size} bytes", f"at most {MAX_FILE_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormError("job file", str(path), f"cannot be read: {error}") from None
    return parse_job(text)


def parse_job(text: str) -> JobFile:
    """A job file's text as a form."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise FormError("job file", None, f"is no YAML: {line}") from None
    return make_form(JobFile, found)


def make_form(form: type[Form], fields: object) -> Form:
    """The form filled with these fields, or the first thing that is wrong with them."""
    if not isinstance(fields, Mapping):
        raise FormError(
            "job file", fields, "is not a mapping of fields", f"such as {', '.join(list(form.model_fields)[:4])}"
        )
    try:
        return form.model_validate(dict(fields))
    except ValidationError as error:
        # A misspelt field is the reason why the right one is missing: say that first.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise form_error(form, details[0]) from None


def digest_only(path: Path) -> str:
    """An upload that sends nothing: the digest alone, for a dry run."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def resolve(job: JobFile, upload: Upload, *, folder: Path = Path()) -> dict[str, Any]:
    """The normalised spec: every default filled in, code and data uploaded by digest, money in nano-dollars.

    Paths in the job file are relative to `folder`, where the file lies. Raises FormError.
    """
    workload = _workload(job, upload, folder)
    options = _options(job, builtin=workload["kind"] == "builtin")
    steps = job.steps if job.steps is not None else _steps_of_tokens(job, options)
    workers = job.workers
    deadline_hours = job.limits.deadline_hours
    return {
        "name": job.name,
        "workload": workload,
        "options": options,
        "data": _data(job, upload, folder),
        "strategy": dict(job.strategy),
        "train": job.train.model_dump(),
        "steps": steps,
        "rounds": min(MAX_ROUNDS, -(-steps // round_steps(job.strategy))),
        "until_loss": job.until_loss,
        "workers": {
            "min": workers.min,
            "max": workers.max if workers.max is not None else workers.min,
            "gpus": workers.gpus,
            "gpu": sorted(set(workers.gpu)),
            "vram_gib": workers.vram_gib,
            "region": sorted(set(workers.region)),
            "reliability": workers.reliability,
            "isolation": workers.isolation,
        },
        "limits": {
            "max_price_nanos_per_gpu_hour": job.limits.max_usd_per_gpu_hour,
            "budget_nanos": job.limits.budget_usd,
            "deadline_ms": None if deadline_hours is None else max(1, round(deadline_hours * 3_600_000)),
        },
        "checkpoint": job.checkpoint.model_dump(exclude_none=True),
        "evaluate": job.evaluate.spec(),
        "seed": job.seed,
        "tags": dict(job.tags),
        "wait": job.wait,
    }


def _options(job: JobFile, *, builtin: bool) -> dict[str, Any]:
    """Of a built-in workload with its defaults; a customer's own file knows its own."""
    if not builtin:
        return dict(job.options)
    try:
        known = workload_options(job.workload, job.options)
    except OptionError as error:
        raise FormError(error.field, error.value, error.message, error.remedy or None) from None
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in known.items()}


def _workload(job: JobFile, upload: Upload, folder: Path) -> dict[str, Any]:
    if ":" not in job.workload and not job.workload.endswith(".py"):
        if job.workload in BUILT_IN:
            return {"kind": "builtin", "name": job.workload}
        near = difflib.get_close_matches(job.workload, BUILT_IN, n=1)
        known = f"did you mean {near[0]}?" if near else f"built in: {', '.join(sorted(BUILT_IN))}"
        raise FormError("workload", job.workload, "is no built-in workload", f"{known}, or write ./file.py:ClassName")
    name, _, class_name = job.workload.partition(":")
    if not (name.endswith(".py") and class_name.isidentifier()):
        raise FormError("workload", job.workload, "is not understood", "write ./file.py:ClassName")
    path = folder / Path(name).expanduser()
    _check_source(path, class_name, job.workload)
    return {"kind": "file", "digest": upload(path), "class_name": class_name, "filename": path.name}


def _check_source(path: Path, class_name: str, shown: str) -> None:
    """That the file is Python and has the class; whether it imports is seen in the worker's sandbox only."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FormError("workload", shown, f"cannot be read: {error.strerror}") from None
    if len(source) > MAX_SOURCE_BYTES:
        raise FormError(
            "workload", shown, f"has {len(source)} bytes", f"at most {MAX_SOURCE_BYTES}; put the rest into data"
        )
    try:
        tree = ast.parse(source, filename=path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormError("workload", shown, f"is not Python: {error}") from None
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if class_name not in classes:
        near = difflib.get_close_matches(class_name, classes, n=1) or classes
        remedy = f"did you mean {' or '.join(near)}?" if near else "it defines no class"
        raise FormError("workload", shown, f"has no class {class_name}", remedy)


def _data(job: JobFile, upload: Upload, folder: Path) -> dict[str, Any]:
    data = job.data if job.data is not None else DEFAULT_DATA.get(job.workload, "none")
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


def _steps_of_tokens(job: JobFile, options: Mapping[str, Any]) -> int:
    """Inner steps per worker that see about so many tokens with the smallest gang; for language models only."""
    known = [name for name, table in WORKLOADS.items() if "context" in table]
    if job.workload not in known:
        raise FormError("tokens", job.tokens, f"is known for {' and '.join(known)} only", "say steps instead")
    assert job.tokens is not None
    batches = job.train.accumulate * job.train.processes * job.workers.min
    step = int(options["context"]) * int(options["batch"]) * batches
    return max(1, math.ceil(job.tokens / step))
