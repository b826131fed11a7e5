"""Every built-in workload's options: what may be written, the default, what it means. No numpy, no torch.

The same table serves the workloads themselves, forms that check a job before it is sent, and plans that need defaults.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from trainers.options import OptionError
from trainers.workloads import nearest_name

__all__ = ["WORKLOADS", "OptionError", "WorkloadOption", "size_of", "workload_options"]

READINGS: Final = ("random", "stream", "own")
TABLES: Final = ("breast_cancer", "diabetes", "iris", "wine")
TOKEN_TYPES: Final = ("uint8", "uint16", "uint32")
OPTIMIZERS: Final = ("adamw", "muon")


@dataclass(frozen=True, slots=True)
class WorkloadOption:
    """One option. `allowed` says in words what `accepts` takes; None is taken too where it is the default."""

    default: Any
    allowed: str
    accepts: Callable[[Any], bool]
    meaning: str


def size_of(text: object) -> float | None:
    """The count that a dial such as "100k", "1M" or "1.5G" names, or None when it names none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG])", str(text))
    return None if match is None else float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def workload_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the built-in workload `name` with the defaults filled in.

    Raises OptionError naming the option as a job file does (`options.batch`), what it holds and what it may hold.
    """
    table = WORKLOADS[name]
    for option, value in given.items():
        field = f"options.{option}"
        if option not in table:
            raise OptionError(field, value, f"is in a field that {name} does not have", nearest_name(option, table))
        if not (table[option].accepts(value) or (value is None and table[option].default is None)):
            raise OptionError(field, value, "cannot be taken", f"it must be {table[option].allowed}")
    return {option: given.get(option, known.default) for option, known in table.items()}


def _whole(default: int | None, low: int, high: int, meaning: str) -> WorkloadOption:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return WorkloadOption(default, f"a whole number from {low} to {high}", accepts, meaning)


def _choice(default: str | None, choices: tuple[str, ...], meaning: str) -> WorkloadOption:
    return WorkloadOption(
        default, f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices, meaning
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_batch(value: Any) -> bool:
    """A number of samples, or a fraction of the training samples that a worker has."""
    if isinstance(value, float):
        return 0 < value < 1
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536


def _is_columns(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and _is_column(one) for name, one in value.items())


def _is_column(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) > 0 and all(isinstance(one, str | int | float) for one in value)
    if isinstance(value, Mapping):
        numbers = set(value) == {"mean", "deviation"} and all(_is_number(one) for one in value.values())
        return numbers and value["deviation"] > 0
    return value in ("number", "ignore")


def _is_size(value: Any) -> bool:
    size = size_of(value)
    return size is not None and 1e4 <= size <= 1e10


_RATE = WorkloadOption(
    None, "a number above 0", lambda value: _is_number(value) and value > 0, "the optimiser's; by default fits the size"
)
_OPTIMIZER = _choice("adamw", OPTIMIZERS, "of inner steps; muon: hidden matrices by Muon, the rest by AdamW")
_SIZE = WorkloadOption("1M", "a parameter count from 10k to 10G, such as 100k, 1M or 10M", _is_size, "of the model")
_BATCH_WORDS = "a whole number from 1 to 65536, or a fraction such as 0.05"
_BATCH_MEANING = "samples a step; a fraction: that part of the samples that the worker has"

_LANGUAGE: Final = {
    "size": _SIZE,
    "context": _whole(128, 8, 8192, "elements that the model sees at once"),
    "batch": _whole(6, 1, 4096, "sequences a step"),
    "lr": _RATE,
    "optimizer": _OPTIMIZER,
}

WORKLOADS: Final[Mapping[str, Mapping[str, WorkloadOption]]] = MappingProxyType(
    {
        "byte_lm": MappingProxyType(
            _LANGUAGE | {"reading": _choice("random", READINGS, "how windows are drawn from the data")}
        ),
        "token_lm": MappingProxyType(
            _LANGUAGE
            | {
                "vocabulary": _whole(50_304, 2, 1 << 20, "tokens are below it"),
                "dtype": _choice("uint16", TOKEN_TYPES, "of the tokens in .bin files; .npy files say it themselves"),
                "reading": _choice("stream", READINGS, "how windows are drawn from the data"),
            }
        ),
        "digits": MappingProxyType(
            {
                "model": _choice("cnn", ("cnn", "mlp"), "three convolutions, or one hidden layer"),
                "width": _whole(16, 1, 1024, "channels of the first convolution, a quarter of the hidden layer"),
                "batch": WorkloadOption(64, _BATCH_WORDS, _is_batch, _BATCH_MEANING),
                "lr": WorkloadOption(3e-3, _RATE.allowed, _RATE.accepts, "the optimiser's rate"),
                "optimizer": _OPTIMIZER,
                "reading": _choice("random", READINGS, "how images are drawn"),
                "labels_per_worker": _whole(None, 1, 9, "a worker draws only so many of the ten digits"),
            }
        ),
        "tabular": MappingProxyType(
            {
                "table": _choice(None, TABLES, "a table that ships with scikit-learn, in place of data"),
                "target": WorkloadOption(
                    None, "a column's name", lambda value: isinstance(value, str), "to predict; by default the last"
                ),
                "task": _choice("auto", ("auto", "classification", "regression"), "auto: from the target's values"),
                "columns": WorkloadOption(
                    MappingProxyType({}),
                    "a mapping of columns to number, ignore, {mean, deviation} or a list of all categories",
                    _is_columns,
                    "what is said of a column is not taken from the data",
                ),
                "delimiter": WorkloadOption(
                    ",", "one character", lambda value: isinstance(value, str) and len(value) == 1, "between columns"
                ),
                "width": _whole(64, 1, 8192, "of the hidden layers"),
                "depth": _whole(2, 0, 16, "hidden layers; none: a linear model"),
                "batch": WorkloadOption(64, _BATCH_WORDS, _is_batch, _BATCH_MEANING),
                "lr": WorkloadOption(3e-3, _RATE.allowed, _RATE.accepts, "the optimiser's rate"),
                "optimizer": _OPTIMIZER,
                "reading": _choice("random", READINGS, "how rows are drawn"),
            }
        ),
    }
)
