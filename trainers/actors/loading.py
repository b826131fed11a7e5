"""Handing a job to a worker's child: its data unpacked into the worker's own folder, its code and options to the child."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.archives import Content, PackingError, reading, unpack
from trainers.actors.failures import failed_answer, failure
from trainers.actors.warm_child import WarmChild
from trainers.child_process import ChildFailed, JobPackage, Loaded, TrainerChild
from trainers.layout import TensorSpec

Json = dict[str, Any]

LOAD_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The run's answer; `final`: asking again gives the same."""

    answer: Json
    final: bool


def load_job(
    warm: WarmChild, spec: Json, source: Content | None, data: Content | None, scratch: Path
) -> tuple[TrainerChild, Loaded] | LoadFailed:
    """The child that has the job, and what it says of the model. See `Worker.load`."""
    try:
        child = warm.ready_for(spec)
        if child is None:
            return LoadFailed(failure("died", warm.error, ""), final=False)
        package = JobPackage(spec, None if source is None else bytes(source), _data_folder(spec, data, scratch))
        return child, child.load(package, LOAD_TIMEOUT_S)
    except PackingError as error:
        return LoadFailed(failure("import", f"the job's data cannot be unpacked: {error}", ""), final=True)
    except ChildFailed as failed:
        return LoadFailed(failed_answer(failed), final=True)


def tensor_row(tensor: TensorSpec) -> Json:
    """A tensor as the run and the store know it."""
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": "float32"}


def _data_folder(spec: Json, data: Content | None, scratch: Path) -> str | None:
    if spec["data"]["kind"] == "share":
        return f"share:{spec['data']['name']}"
    if data is None:
        return None
    folder = scratch / "data"
    unpack(reading(data), folder)
    return str(folder)
