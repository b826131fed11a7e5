"""Job files and offers as people write them, and the one normalised spec that everything behind them reads.

A form that cannot be taken raises FormError: which field, what it held, what is allowed, and what to do.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from market.batch_forms import BatchFile, resolve_batch
from market.checking import MAX_ROUNDS, MAX_STEPS, MAX_VRAM_GIB
from market.form_errors import FormError, form_error
from market.form_parts import (
    GpuName,
    LimitsForm,
    OwnMachines,
    Price,
    ShortName,
    Tags,
    Upload,
    WorkersForm,
    refuse,
    resolve_data,
)
from market.form_sections import (
    CheckpointForm,
    EvaluateForm,
    Form,
    StrategyOptions,
    StrictForm,
    TrainForm,
    option_refusal,
)
from market.hardware import MAX_UNITS
from trainers.options import OptionError, strategy_options
from trainers.round_lengths import round_lengths
from trainers.workloads import BUILT_IN
from trainers.workloads.options import WORKLOADS, workload_options

DEFAULT_DATA: Final = {"byte_lm": "stdlib"}
"""What is packed for a built-in workload whose job names no data."""
MAX_FILE_BYTES: Final = 256 * 1024
MAX_SOURCE_BYTES: Final = 1024 * 1024


class JobFile(OwnMachines):
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
    tags: Tags = Field(default_factory=dict)
    wait: bool = False

    @model_validator(mode="after")
    def _has_length(self) -> JobFile:
        if self.steps is None and self.tokens is None:
            raise refuse("says neither steps nor tokens", "say how long to train: steps: 600 (per worker)")
        if self.steps is not None and self.tokens is not None:
            raise refuse("says steps and tokens", "say one of them")
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
            raise refuse("has a floor above its price", "floor_usd_per_gpu_hour must not be above the price")
        return self


def read_job(path: Path) -> JobFile | BatchFile:
    """The job file at `path`. Raises FormError, also for a file that is missing, too large or no YAML."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FormError("job file", str(path), f"has {size} bytes", f"at most {MAX_FILE_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormError("job file", str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise FormError("job file", str(path), f"cannot be read: {error}") from None
    return parse_job(text)


def parse_job(text: str) -> JobFile | BatchFile:
    """A job file's text as a form: of a job that trains, or of one that is a command."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise FormError("job file", None, f"is no YAML: {line}") from None
    if isinstance(found, Mapping) and "command" in found:
        if "workload" in found:
            raise FormError(
                "command", None, "stands beside workload", "say one of them: a job trains or runs a command"
            )
        return make_form(BatchFile, found)
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


def resolve(job: JobFile | BatchFile, upload: Upload, *, folder: Path = Path()) -> dict[str, Any]:
    """The normalised spec: every default filled in, code and data uploaded by digest, money in nano-dollars.

    Paths in the job file are relative to `folder`, where the file lies. Raises FormError.
    """
    if isinstance(job, BatchFile):
        return resolve_batch(job, upload, folder)
    workload = _workload(job, upload, folder)
    options = _options(job, builtin=workload["kind"] == "builtin")
    steps = job.steps if job.steps is not None else _steps_of_tokens(job, options)
    return {
        "name": job.name,
        "workload": workload,
        "options": options,
        "data": resolve_data(_named_data(job), upload, folder),
        "strategy": dict(job.strategy),
        "train": job.train.model_dump(),
        "steps": steps,
        "rounds": min(MAX_ROUNDS, round_lengths(job.strategy, steps).rounds_from(0)),
        "until_loss": job.until_loss,
        "workers": job.workers.spec(),
        "limits": job.limits.spec(),
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
    made = _workloads_in(tree)
    if class_name not in made:
        near = difflib.get_close_matches(class_name, made, n=1) or made
        remedy = f"did you mean {' or '.join(near)}?" if near else "it defines no class"
        raise FormError("workload", shown, f"has no class {class_name}", remedy)


def _workloads_in(tree: ast.Module) -> list[str]:
    """Names of what may be a workload: classes, functions that are decorated, what a call gave (`torg.workload(setup)`)."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.decorator_list):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names


def _named_data(job: JobFile) -> str:
    return job.data if job.data is not None else DEFAULT_DATA.get(job.workload, "none")


def _steps_of_tokens(job: JobFile, options: Mapping[str, Any]) -> int:
    """Inner steps per worker that see about so many tokens with the smallest gang; for language models only."""
    known = [name for name, table in WORKLOADS.items() if "context" in table]
    if job.workload not in known:
        raise FormError("tokens", job.tokens, f"is known for {' and '.join(known)} only", "say steps instead")
    assert job.tokens is not None
    batches = job.train.accumulate * job.train.processes * job.workers.min
    step = int(options["context"]) * int(options["batch"]) * batches
    return max(1, math.ceil(job.tokens / step))
