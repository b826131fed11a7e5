"""What a trainer child is given and what it answers, and the checks that every answer passes: pure, believes nothing.

A child may be owned by its customer's code, so each check ends in a clean value or in `ChildFailed`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

import numpy as np

from trainers.layout import TensorSpec
from trainers.metrics import wrong_metrics
from trainers.tensor_file import LENGTH_BYTES, BadHead, check_head

FailureKind = Literal["exception", "nan", "shape", "memory", "hang", "died", "import"]
MAX_TENSORS = 100_000
MAX_COUNT = 1 << 53
MAX_DIMENSIONS = 16
MAX_SAFETENSORS_HEADER = 100_000_000  # as the format itself allows


class ChildFailed(Exception):
    """The child failed for good and was ended. `kind` says how, `traceback` is the customer's or the last log lines."""

    def __init__(self, kind: FailureKind, message: str, traceback: str = "") -> None:
        super().__init__(kind, message, traceback)
        self.kind: FailureKind = kind
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class InnerStateRefused(ChildFailed):
    """An inner optimiser's state that cannot be exported or imported. Only the call failed: the child serves on."""

    def __init__(self, message: str) -> None:
        super().__init__("exception", message)


class NotFiniteNumbers(ChildFailed):
    """A loss, a gradient or parameters that are not finite. Only the call failed: the child serves on, and may train from
    parameters and an inner state that it is given.
    """

    def __init__(self, message: str) -> None:
        super().__init__("nan", message)


@dataclass(frozen=True, slots=True)
class JobPackage:
    """What a child needs to load a job.

    `spec` is the normalised job spec, `source` the customer's file when the workload is one. `data_folder` is the
    absolute path of a folder inside the child's scratch, or `share:NAME` for one of its shares, or None without data.
    """

    spec: dict[str, Any]
    source: bytes | None
    data_folder: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model's tensors in order, and its initial parameters as flat float32 [n].

    `tied`: further names of tensors, each with the name that it has among `tensors`. `buffers`: whether the model keeps
    tensors that are no parameters.
    """

    tensors: tuple[TensorSpec, ...]
    initial: np.ndarray
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """One round's inner steps: flat float32 [n], mean loss and loss of each step, tokens seen, time in the loop.

    `held_out_loss` is that of the parameters that the round began with, or None when it was not asked for or not finite.
    """

    parameters: np.ndarray
    loss: float
    losses: tuple[float, ...]
    tokens: int
    trained_ms: int
    held_out_loss: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the round in progress is; zeros between rounds."""

    steps: int = 0
    loss: float = math.nan
    tokens: int = 0
    trained_ms: int = 0


def broke_protocol(what: str, traceback: str = "") -> NoReturn:
    """The child said what no child of ours says."""
    raise ChildFailed("exception", f"the child broke the protocol: {what}", traceback)


def checked_failure(fields: dict[str, Any], log: str = "") -> ChildFailed:
    """The failure that a child reports about itself; that it hangs is for its parent to see. `log`: its last lines,
    for a report without a traceback (of a rank that died).
    """
    kind, message, trace = fields.get("kind"), fields.get("message"), fields.get("traceback")
    if not isinstance(kind, str) or kind not in get_args(FailureKind) or kind == "hang":
        broke_protocol("a failure of no kind")
    if not isinstance(message, str) or not isinstance(trace, str):
        broke_protocol("a failure that says nothing")
    if kind == "nan":
        return NotFiniteNumbers(message[:1000])
    return ChildFailed(kind, message[:1000], trace[:16_000] or log)  # type: ignore[arg-type]  # looked up above


def checked_refusal(fields: dict[str, Any]) -> InnerStateRefused:
    """What a child says when it cannot export or import."""
    message = fields.get("message")
    return InnerStateRefused(message[:1000] if isinstance(message, str) else "refused without a word")


def checked_safetensors(content: bytes) -> bytes:
    """`content` when it has the frame of a safetensors file: its header is JSON and describes all bytes that follow."""
    length = checked_head_length(content[:LENGTH_BYTES], len(content))
    checked_head(content[: LENGTH_BYTES + length], len(content))
    return content


def checked_head_length(prefix: bytes, size_bytes: int) -> int:
    """How long the header is that a file of that size begins with."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < LENGTH_BYTES or length > min(size_bytes - LENGTH_BYTES, MAX_SAFETENSORS_HEADER):
        broke_protocol("a state that is no safetensors file")
    return length


def checked_head(head: bytes, size_bytes: int) -> bytes:
    """The beginning of a safetensors file of that size, length and header."""
    try:
        check_head(head, size_bytes - len(head))
    except BadHead as reason:
        broke_protocol(f"a state that is no safetensors file: {reason}")
    return head


def checked_count(value: Any, most: int = MAX_COUNT) -> int:
    """An int in [0, most]."""
    if type(value) is not int or not 0 <= value <= most:
        broke_protocol("a count that is none")
    return int(value)


def checked_loss(value: Any) -> float:
    """A finite float."""
    if type(value) is not float and type(value) is not int:
        broke_protocol("a loss that is no number")
    try:
        loss = float(value)
    except OverflowError:
        loss = math.inf
    if not math.isfinite(loss):
        raise ChildFailed("nan", f"the loss is {loss}")
    return loss


def checked_evaluation(value: Any) -> float | None:
    """A finite held-out loss, or None for one that the child says is none."""
    return None if value is None else checked_loss(value)


def checked_losses(value: Any, steps: int) -> tuple[float, ...]:
    """One finite float a step."""
    if not isinstance(value, list) or len(value) != steps:
        broke_protocol(f"not {steps} losses")
    return tuple(checked_loss(loss) for loss in value)


def checked_metrics(value: Any) -> dict[str, float]:
    """A few finite numbers by name."""
    wrong = wrong_metrics(value)
    if wrong is not None:
        raise ChildFailed("exception", f"metrics() {wrong}")
    return {name: float(number) for name, number in value.items()}


def checked_tied(described: Any, tensors: Sequence[TensorSpec]) -> dict[str, str]:
    """Further names of those tensors."""
    names = {tensor.name for tensor in tensors}
    if not isinstance(described, dict) or len(described) > MAX_TENSORS:
        broke_protocol("no mapping of tied names")
    tied = {name[:500]: twin for name, twin in described.items()}
    if not all(name not in names and isinstance(twin, str) and twin in names for name, twin in tied.items()):
        broke_protocol("tied names of no tensors")
    return tied


def checked_tensors(described: Any, most_bytes: int) -> tuple[TensorSpec, ...]:
    """Tensors of a model that is not empty and not larger than `most_bytes` in float32."""
    if not isinstance(described, list) or len(described) > MAX_TENSORS:
        broke_protocol("no list of tensors")
    tensors: list[TensorSpec] = []
    offset = 0
    for entry in described:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            broke_protocol("a tensor without name and shape")
        if not isinstance(entry[1], list) or len(entry[1]) > MAX_DIMENSIONS:
            broke_protocol("a tensor without shape")
        shape = tuple(checked_count(size) for size in entry[1])
        size = math.prod(shape)
        tensors.append(TensorSpec(entry[0][:500], shape, offset, size))
        offset += size
        if 4 * offset > most_bytes:
            raise ChildFailed("memory", f"a model of more than {most_bytes >> 20} MiB")
    if offset == 0:
        raise ChildFailed("shape", "the model has no parameters")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ChildFailed("shape", "two parameters of the model have one name")
    return tuple(tensors)
