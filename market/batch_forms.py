"""A job file that is a command: what to run, with which files, what to keep of it."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from market.command_checking import (
    MAX_ARGUMENTS,
    MAX_PATTERNS,
    MAX_RETRIES,
    MAX_SECRETS,
    MAX_TIMEOUT_MS,
    MAX_VARIABLES,
    VARIABLE,
    is_argument,
    is_reserved,
)
from market.form_errors import FormError
from market.form_parts import (
    LimitsForm,
    OwnMachines,
    ShortName,
    Tags,
    Upload,
    WorkersForm,
    listed,
    refuse,
    resolve_data,
)
from market.packing import PackingError
from market.requirement_forms import requirements_of
from market.workdirs import pack_workdir, send_workdir
from storage.units import TimeError, parse_duration_ms
from trainers.globs import BadPattern, checked_pattern
from trainers.launches import VARIABLES, launcher_in


def _argv(value: object) -> list[str]:
    """A command as a list of texts, or as one text that is split as a shell would."""
    such = "such as `python train.py --epochs 10` or [python, train.py, --epochs, 10]"
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise refuse(
                f"cannot be split as a shell would: {error}", "close every quotation, or write a list"
            ) from None
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ARGUMENTS:
        raise refuse(f"is no command of 1 to {MAX_ARGUMENTS} words", such)
    words = [_word(one) for one in value]
    if not words[0]:
        raise refuse("names no program", such)
    return words


def _word(value: object) -> str:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not is_argument(text):
        raise refuse("has a word that is no text", "write true, false and null in quotes")
    return text


def _variable(value: object) -> str:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not is_argument(text):
        raise refuse("is no text", "write true, false and null in quotes")
    return text


def _timeout(value: object) -> int:
    allowed = f"a time from 1s to {MAX_TIMEOUT_MS // 86_400_000}d with its unit, such as 90s, 15m or 2h"
    if not isinstance(value, str):
        raise refuse("has no unit", allowed)
    try:
        timeout_ms = parse_duration_ms(value)
    except TimeError:
        raise refuse("is not a time", allowed) from None
    if not 1_000 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise refuse("is out of range", f"allowed: {allowed}")
    return timeout_ms


def _pattern(value: object) -> str:
    remedy = "such as out/*.pt, or a folder of the working folder"
    if not isinstance(value, str):
        raise refuse("is not a pattern", remedy)
    try:
        return checked_pattern(value)
    except BadPattern as bad:
        raise refuse(str(bad), remedy) from None


def _machine(value: object) -> object:
    """`workers: 4` as the machine with so many cards or cores."""
    return {"gpus": value} if isinstance(value, int) and not isinstance(value, bool) else value


_SEVERAL = (
    "a command runs on one machine: add `launch: torchrun` for one process on each of its cards or cores (workers: 4, or "
    "workers.gpus), and leave workers.min and workers.max out"
)


class BatchFile(OwnMachines):
    """A batch job as people write it (YAML): one command on one worker. docs/FORMATS.md shows every field."""

    name: ShortName
    command: Annotated[list[str], BeforeValidator(_argv)]
    env: Annotated[
        dict[str, Annotated[str, BeforeValidator(_variable)]], Field(max_length=MAX_VARIABLES)
    ] = Field(default_factory=dict)  # fmt: skip
    secrets: Annotated[list[str], BeforeValidator(listed), Field(max_length=MAX_SECRETS)] = Field(default_factory=list)
    network: bool = False
    workdir: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    artifacts: Annotated[
        list[Annotated[str, BeforeValidator(_pattern)]], BeforeValidator(listed), Field(max_length=MAX_PATTERNS)
    ] = Field(default_factory=list)
    timeout: Annotated[int, BeforeValidator(_timeout)] | None = None
    retries: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 0
    data: Annotated[str, Field(min_length=1, max_length=4_096)] = "none"
    requirements: str | list[str] | None = None
    pyproject: bool | str | None = None
    launch: Literal["torchrun"] | None = None
    workers: Annotated[WorkersForm, BeforeValidator(_machine)] = WorkersForm()
    limits: LimitsForm
    tags: Tags = Field(default_factory=dict)
    wait: bool = False

    @model_validator(mode="before")
    @classmethod
    def _says_how_to_start_several(cls, said: Any) -> Any:
        workers = said.get("workers") if isinstance(said, dict) else None
        if isinstance(workers, int) and not isinstance(workers, bool) and workers > 1 and said.get("launch") is None:
            raise refuse(f"wants {workers} workers", _SEVERAL)
        return said

    @model_validator(mode="after")
    def _is_possible(self) -> BatchFile:
        if (self.workers.min, self.workers.max or 1) != (1, 1):
            raise refuse("wants several workers", _SEVERAL)
        if self.requirements is not None and self.pyproject:
            raise refuse("says requirements and pyproject", "one of them names what is installed")
        if self.launch is not None:
            self._can_be_launched()
        for name in self.env:
            if VARIABLE.fullmatch(name) is None:
                raise refuse(f"has a variable {name!r} in env", "names are letters, digits and underscores")
            if is_reserved(name):
                raise refuse(f"sets {name} in env", "torg sets HOME, TORG_… and CUDA_VISIBLE_DEVICES itself")
        for number, name in enumerate(self.secrets):
            if VARIABLE.fullmatch(name) is None or is_reserved(name):
                raise refuse(f"has {name!r} in secrets", "names are letters, digits and underscores, and none of torg's own")
            if name in self.env or name in self.secrets[:number]:
                raise refuse(f"says {name} twice", "a secret is a variable of the command: leave it out of env")
        return self


    def _can_be_launched(self) -> None:
        launcher = launcher_in(self.command)
        if launcher is not None:
            raise refuse(f"calls {launcher} and says launch", "write what each process runs, such as python train.py")
        for name in (*self.env, *self.secrets):
            if name in VARIABLES:
                raise refuse(f"sets {name} in env or secrets", "with launch torg sets it itself")


def resolve_batch(job: BatchFile, upload: Upload, folder: Path) -> dict[str, Any]:
    """The normalised spec, like `forms.resolve`: files packed and uploaded, every default filled in. Raises FormError."""
    return {
        "name": job.name,
        "command": {
            "argv": list(job.command),
            "env": dict(job.env),
            **({"secrets": list(job.secrets)} if job.secrets else {}),
            **({"network": True} if job.network else {}),
            **requirements_of(job.requirements, job.pyproject, folder if job.workdir is None else _below(folder, job.workdir)),
            "workdir": None if job.workdir is None else _workdir(job.workdir, upload, folder),
            "artifacts": list(job.artifacts),
            "timeout_ms": job.timeout,
            "retries": job.retries,
            **({"launch": job.launch} if job.launch is not None else {}),
        },
        "data": resolve_data(job.data, upload, folder),
        "workers": job.workers.spec() | ({"isolation": "sandbox"} if job.launch is not None else {}),
        "limits": job.limits.spec(),
        "tags": dict(job.tags),
        "wait": job.wait,
    }


def _below(folder: Path, named: str) -> Path:
    return (folder / Path(named).expanduser()).resolve()


def _workdir(named: str, upload: Upload, folder: Path) -> dict[str, Any]:
    source = _below(folder, named)
    with tempfile.TemporaryDirectory(prefix="torg-pack-") as scratch:
        try:
            packed = pack_workdir(source, Path(scratch) / "workdir.tar")
            sent = send_workdir(packed, upload, Path(scratch))
        except PackingError as error:
            remedy = "a folder of plain files; .gitignore says what stays here"
            raise FormError("workdir", named, f"cannot be packed: {error}", remedy) from None
    return {"bytes": packed.bytes, "label": packed.label, **sent}
