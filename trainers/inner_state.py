"""An inner optimiser's state as safetensors, and back into another worker's optimiser. Never pickle.

Layout: tensor `INDEX.NAME` is entry NAME of the state of parameter INDEX (in the order of `model.named_parameters()`);
the metadata's `torg` is JSON: {v, optimizer, parameters: [[name, shape]…], scalars: {INDEX: {NAME: number}}, groups:
[{option: number…}], scale}. What is read may come from anybody: shapes, types and finiteness are checked first.
"""

import json
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch

from trainers.sharding import is_sharded, set_whole, whole
from trainers.tensor_file import Entry, head_of

FORMAT = 1
Named = Sequence[tuple[str, torch.Tensor]]
WritableBuffer: TypeAlias = "bytearray | mmap.mmap"

DTYPES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What a state's tensors may be of, by the format's names."""


class InnerStateError(Exception):
    """A state that cannot be handed over, or that is not this optimiser's; the message names what. Nothing changed."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """An optimiser's state before it is copied: the file's head, and each tensor with its place in the file."""

    head: bytes
    places: Sequence[tuple[torch.Tensor, int]]
    size_bytes: int

    @torch.no_grad()
    def write(self, memory: WritableBuffer, *, writes: bool = True) -> None:
        """Copy everything; a collective when tensors are sharded, and only ranks with `writes` look at the memory."""
        if writes:
            memory[: len(self.head)] = self.head
        for tensor, place in self.places:
            value = whole(tensor)
            if writes and value.numel():
                room = torch.frombuffer(memory, dtype=value.dtype, count=value.numel(), offset=place)
                room.view(value.shape).copy_(value)

    def content(self) -> bytes:
        """The file as bytes; a collective as `write`."""
        memory = bytearray(self.size_bytes)
        self.write(memory)
        return bytes(memory)


def state_file(optimizer: torch.optim.Optimizer, named: Named, scale: float | None) -> StateFile:
    """The state as a file that is still to be written. Raises InnerStateError for what cannot be handed over."""
    kind = type(optimizer).__name__
    indices = {id(parameter): index for index, (_, parameter) in enumerate(named)}
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for parameter, state in optimizer.state.items():
        index = indices.get(id(parameter))
        if index is None:
            raise InnerStateError(f"{kind} keeps state for something that is no parameter of the model")
        for name, value in state.items():
            what = f"{kind} keeps {name!r} of parameter {named[index][0]!r}"
            if isinstance(value, torch.Tensor):
                if not _fits(value.shape, parameter.shape):
                    raise InnerStateError(f"{what} with shape {list(value.shape)}, which cannot be handed over")
                if value.layout != torch.strided or value.dtype not in DTYPES:
                    raise InnerStateError(f"{what} as {value.layout} {value.dtype}, which cannot be handed over")
                tensors[f"{index}.{name}"] = value
            elif _is_scalar(value):
                scalars.setdefault(str(index), {})[name] = value
            else:
                raise InnerStateError(f"{what} as {type(value).__name__}; only tensors and numbers can be handed over")
    described = {
        "v": FORMAT, "optimizer": kind, "scale": scale, "scalars": scalars,
        "parameters": [[name, list(parameter.shape)] for name, parameter in named],
        "groups": [_numbers_of(group) for group in optimizer.param_groups],
    }  # fmt: skip
    metadata = {"torg": json.dumps(described, sort_keys=True, separators=(",", ":"))}
    entries = [Entry(name, DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    head, places = head_of(entries, metadata)
    size_bytes = len(head) + sum(entry.size_bytes for entry in entries)
    return StateFile(head, [(tensors[name], place) for name, place in places.items()], size_bytes)


@torch.no_grad()
def import_state(exported: bytes, optimizer: torch.optim.Optimizer, named: Named) -> float | None:
    """Put an exported state in the place of this optimiser's; the loss scale that came with it.

    Learning rates stay: the schedule sets them. Raises InnerStateError.
    """
    tensors, described = _read(exported)
    if described["optimizer"] != type(optimizer).__name__:
        raise InnerStateError(f"the state of {described['optimizer']}, not of {type(optimizer).__name__}")
    if described["parameters"] != [[name, list(parameter.shape)] for name, parameter in named]:
        raise InnerStateError("the state of a model with other parameters")
    groups = optimizer.param_groups
    if len(described["groups"]) != len(groups) or not all(isinstance(group, dict) for group in described["groups"]):
        raise InnerStateError("the state of an optimiser with other groups of parameters")
    owned = {id(parameter) for group in groups for parameter in group["params"]}
    states: dict[int, dict[str, Any]] = {}
    for index, name, value in _entries(tensors, described["scalars"]):
        if not 0 <= index < len(named) or id(named[index][1]) not in owned:
            raise InnerStateError(f"state of parameter {index}, which this optimiser does not have")
        states.setdefault(index, {})[name] = _checked(value, named[index][1], f"{name!r} of {named[index][0]!r}")
    optimizer.state.clear()
    for index, state in states.items():
        optimizer.state[named[index][1]] = state
    for group, numbers in zip(groups, described["groups"], strict=True):
        _restore_group(group, numbers)
    scale = described["scale"]
    return float(scale) if type(scale) is float and math.isfinite(scale) and scale >= 1 else None


def _read(exported: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        tensors = safetensors.torch.load(exported)
        size = int.from_bytes(exported[:8], "little")
        described = json.loads(json.loads(exported[8 : 8 + size])["__metadata__"]["torg"])
        if described["v"] != FORMAT:
            raise ValueError(f"format {described['v']}")
        kinds = {"optimizer": str, "parameters": list, "scalars": dict, "groups": list}
        for name, kind in kinds.items():
            if not isinstance(described[name], kind):
                raise ValueError(f"{name} of another kind")
        described["scale"] = described.get("scale")
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InnerStateError(f"not an exported inner state: {error}") from None
    return tensors, described


def _entries(tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> list[tuple[int, str, Any]]:
    """(parameter's index, entry's name, value) of all."""
    found: list[tuple[str, str, Any]] = []
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        found.append((number, name, tensor))
    for number, entries in scalars.items():
        if not isinstance(entries, dict) or not all(map(_is_scalar, entries.values())):
            raise InnerStateError("not an exported inner state: scalars that are none")
        found += [(number, name, value) for name, value in entries.items()]
    if not all(number.isdecimal() and len(number) < 10 and name for number, name, _ in found):
        raise InnerStateError("not an exported inner state: an entry of no parameter")
    return [(int(number), name, value) for number, name, value in found]


def _checked(value: Any, parameter: torch.Tensor, what: str) -> Any:
    """The value as this parameter's optimiser keeps it. Raises InnerStateError."""
    if not isinstance(value, torch.Tensor):
        return value
    if not _fits(value.shape, parameter.shape):
        raise InnerStateError(f"{what} has shape {list(value.shape)}; the parameter has {list(parameter.shape)}")
    if not torch.isfinite(value).all():
        raise InnerStateError(f"{what} is not finite")
    if is_sharded(parameter) and value.shape == parameter.shape:
        part = torch.empty_like(parameter.detach(), dtype=value.dtype)
        set_whole(part, value.to(parameter.device))
        return part
    # a count of steps stays on the CPU, where optimisers keep it; what has the parameter's size lies with it
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)


def _fits(shape: torch.Size, parameter: torch.Size) -> bool:
    """A number, or something that has one value for each or for each row or column of the parameter's elements."""
    if shape.numel() == 1:
        return True
    return len(shape) == len(parameter) and all(have in (1, want) for have, want in zip(shape, parameter, strict=True))


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _numbers_of(group: dict[str, Any]) -> dict[str, Any]:
    """What of a group is numbers: some optimisers count or adapt there."""
    return {
        name: value
        for name, value in group.items()
        if name not in ("params", "lr", "initial_lr") and isinstance(value, int | float) and math.isfinite(value)
    }


def _restore_group(group: dict[str, Any], numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if name in _numbers_of(group) and _is_scalar(value) and value is not None:
            group[name] = bool(value) if isinstance(group[name], bool) else value
