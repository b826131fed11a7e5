"""Checks of what a client sent to the exchange: nothing in a spec or an offer is trusted, whoever made it.

Each check returns the first thing that is wrong, or None. Forms (market/forms.py) give friendlier words to people.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from market.outcomes import Refusal, Settings
from storage.canonical import NotCanonical, canonical_bytes
from storage.units import TEN_YEARS_MS
from trainers.options import OptionError, strategy_options
from trainers.workloads.options import WORKLOADS, workload_options

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LETTERS: Final = (string.ascii_letters + string.digits + "._-").encode()
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
ISOLATIONS: Final = ("process", "sandbox")
MAX_INT: Final = 2**53
MAX_WORKERS: Final = 1_024
MAX_ROUNDS: Final = 1_000_000
MAX_STEPS: Final = 1_000_000_000
MAX_VRAM_GIB: Final = 4_096.0
MAX_EVERY_ROUNDS: Final = 10_000
MAX_EVERY_MS: Final = 30 * 86_400_000
MAX_ACCUMULATE: Final = 65_536
MAX_PROCESSES: Final = 64
MAX_CLIP: Final = 1e6
PRECISIONS: Final = ("fp32", "bf16", "fp16")
SHARDINGS: Final = ("ddp", "fsdp2")
TRAIN_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "precision": "fp32",
        "accumulate": 1,
        "compile": False,
        "activation_checkpointing": False,
        "processes": 1,
        "sharding": "ddp",
        "clip": 1.0,
    }
)
CHECKPOINT_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"every_rounds": 1, "keep": 3, "base_every_rounds": 10}  # `inner_state` by the strategy: `keeps_inner_state`
)
# In force when a job says neither of the two that it may say.
EVALUATE_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({"every_rounds": 1})
# A job's data travel to every worker as one object of Ray's.
MAX_DATA_BYTES: Final = 2 * 1024**3

_SPEC_FIELDS: Final = (
    "name", "workload", "options", "data", "strategy", "steps", "rounds", "workers", "limits", "checkpoint", "seed", "tags",
)  # fmt: skip
_SPEC_OPTIONAL: Final = ("wait", "until_loss", "train", "evaluate")
_WORKER_FIELDS: Final = ("min", "max", "gpus", "gpu", "vram_gib", "region", "reliability", "isolation")
_WORKER_OPTIONAL: Final = ("own", "available_ms", "movable", "grow_below_nanos_per_gpu_hour")
_LIMIT_FIELDS: Final = ("max_price_nanos_per_gpu_hour", "budget_nanos", "deadline_ms")
_LIMIT_OPTIONAL: Final = ("interruptible",)


def invalid(field: str, value: object, allowed: str) -> Refusal:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return Refusal("invalid", f"{field}: {shown} is not {allowed}", field=field, remedy=f"allowed: {allowed}")


def is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high


def is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def are_names(values: Sequence[str]) -> bool:
    """Whether every one is a name, looked at together: a tenth of what it takes to ask of each."""
    text = "\n".join(("", *values, ""))
    others = text.encode("ascii", "replace").translate(None, _LETTERS)
    if others != b"\n" * (len(values) + 1) or any(f"\n{mark}" in text for mark in "\n._-"):
        return False
    return max(map(len, values), default=0) <= 64


def is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and value.isprintable()


def sized_bytes(what: str, value: object, most_bytes: int) -> bytes | Refusal:
    """The canonical form; a refusal of what is no JSON or longer than `most_bytes` in it."""
    try:
        encoded = canonical_bytes(value)
    except (NotCanonical, RecursionError) as error:
        return Refusal("invalid", f"{what} is not JSON: {error}", field=what)
    if len(encoded) > most_bytes:
        return Refusal("too_large", f"{what} has {len(encoded)} bytes, the limit is {most_bytes}", field=what, status=413)
    return encoded


def check_size(what: str, value: object, most_bytes: int) -> Refusal | None:
    """Refuse what is no JSON or longer than `most_bytes` in canonical form."""
    found = sized_bytes(what, value, most_bytes)
    return found if isinstance(found, Refusal) else None


def check_spec(spec: Mapping[str, Any], settings: Settings) -> Refusal | None:
    """The first thing wrong with a normalised job spec, whose size was checked, or None."""
    return (
        check_fields("", spec, _SPEC_FIELDS, _SPEC_OPTIONAL)
        or _check_scalars(spec)
        or _check_workload(spec["workload"], spec["options"])
        or check_data(spec["data"])
        or _check_strategy(spec["strategy"])
        or _check_train(spec.get("train", {}), spec["workers"])
        or check_workers(spec["workers"], settings)
        or check_limits(spec["limits"], settings, own=bool(spec["workers"].get("own")))
        or _check_checkpoint(spec["checkpoint"])
        or _check_evaluate(spec.get("evaluate", {}))
        or check_tags(spec["tags"])
    )


def check_fields(path: str, value: object, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> Refusal | None:
    """Refuse what is no mapping, lacks one of `names`, or has a field beyond them and `optional`."""
    if not isinstance(value, Mapping):
        return invalid(path or "spec", value, "a mapping")
    if len(value) == len(names) and all(map(value.__contains__, names)):
        return None  # as nearly always, and in a third of the time
    for name in names:
        if name not in value:
            return Refusal("invalid", f"{path}{name} is missing", field=f"{path}{name}")
    for name in value:
        if name not in names and name not in optional:
            return Refusal("invalid", f"{path}{name} is not known", field=f"{path}{name}")
    return None


def _check_scalars(spec: Mapping[str, Any]) -> Refusal | None:
    if not is_name(spec["name"]):
        return invalid("name", spec["name"], "1 to 64 letters, digits, dots, dashes")
    if not is_int(spec["steps"], 1, MAX_STEPS):
        return invalid("steps", spec["steps"], f"a whole number from 1 to {MAX_STEPS}")
    if not is_int(spec["rounds"], 1, MAX_ROUNDS):
        return invalid("rounds", spec["rounds"], f"a whole number from 1 to {MAX_ROUNDS}")
    if not is_int(spec["seed"], 0, MAX_INT):
        return invalid("seed", spec["seed"], "a whole number from 0")
    if not isinstance(spec["options"], Mapping):
        return invalid("options", spec["options"], "a mapping")
    if not isinstance(spec.get("wait", False), bool):
        return invalid("wait", spec["wait"], "true or false")
    until = spec.get("until_loss")
    if until is not None and not is_number(until, 1e-9, 1e9):
        return invalid("until_loss", until, "a positive number")
    return None


def _check_workload(workload: object, options: Mapping[str, Any]) -> Refusal | None:
    kind = workload.get("kind") if isinstance(workload, Mapping) else None
    if kind == "builtin":
        wrong = check_fields("workload.", workload, ("kind", "name"))
        if wrong is not None:
            return wrong
        assert isinstance(workload, Mapping)
        if workload["name"] not in WORKLOADS:
            return invalid("workload.name", workload["name"], f"built in: {', '.join(WORKLOADS)}")
        try:
            workload_options(workload["name"], options)
        except OptionError as error:
            return option_refusal(error)
        return None
    if kind != "file":
        return invalid("workload.kind", kind, "builtin or file")
    wrong = check_fields("workload.", workload, ("kind", "digest", "class_name", "filename"))
    assert isinstance(workload, Mapping)
    if wrong is not None:
        return wrong
    if not is_digest(workload["digest"]):
        return invalid("workload.digest", workload["digest"], "a SHA-256 in hex")
    if not (isinstance(workload["class_name"], str) and workload["class_name"].isidentifier()):
        return invalid("workload.class_name", workload["class_name"], "a Python name")
    if not is_text(workload["filename"], 255) or "/" in workload["filename"] or not workload["filename"].strip("."):
        return invalid("workload.filename", workload["filename"], "a file name without folders")
    return None


def check_data(data: object) -> Refusal | None:
    """What a job reads: nothing, a blob, or a provider's share."""
    kind = data.get("kind") if isinstance(data, Mapping) else None
    assert kind is None or isinstance(data, Mapping)
    if kind == "none":
        return check_fields("data.", data, ("kind",))
    if kind == "share":
        wrong = check_fields("data.", data, ("kind", "name"))
        if wrong is None and not is_name(data["name"]):  # type: ignore[index]
            wrong = invalid("data.name", data["name"], "a name")  # type: ignore[index]
        return wrong
    if kind != "blob":
        return invalid("data.kind", kind, "none, blob or share")
    wrong = check_fields("data.", data, ("kind", "digest", "bytes", "label"))
    assert isinstance(data, Mapping)
    if wrong is not None:
        return wrong
    if not is_digest(data["digest"]):
        return invalid("data.digest", data["digest"], "a SHA-256 in hex")
    if not is_int(data["bytes"], 1, MAX_INT):
        return invalid("data.bytes", data["bytes"], f"a whole number of bytes from 1 to {MAX_DATA_BYTES}")
    if data["bytes"] > MAX_DATA_BYTES:
        message = f"the data have {data['bytes']} bytes, the limit is {MAX_DATA_BYTES} (2 GiB)"
        return Refusal("too_large", message, field="data.bytes", remedy="less data, or a provider's share", status=413)
    return None if is_text(data["label"], 255) else invalid("data.label", data["label"], "a short text")


def option_refusal(error: OptionError) -> Refusal:
    """What trainers/options.py says is wrong with an option, as a refusal."""
    shown = repr(error.value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    said = error.message if shown in error.message else f"{shown} {error.message}"
    return Refusal("invalid", f"{error.field}: {said}", field=error.field, remedy=error.remedy or None)


def _check_strategy(strategy: object) -> Refusal | None:
    if not isinstance(strategy, Mapping):
        return invalid("strategy", strategy, "a mapping")
    try:
        strategy_options(strategy)
    except OptionError as error:
        return option_refusal(error)
    return None


def _check_train(train: object, workers: object) -> Refusal | None:
    """Every option may be missing and has its default then."""
    wrong = check_fields("train.", train, (), tuple(TRAIN_DEFAULTS))
    if wrong is not None:
        return wrong
    assert isinstance(train, Mapping)
    options = {**TRAIN_DEFAULTS, **train}
    for name, choices in (("precision", PRECISIONS), ("sharding", SHARDINGS)):
        if options[name] not in choices:
            return invalid(f"train.{name}", options[name], f"{', '.join(choices[:-1])} or {choices[-1]}")
    for name in ("compile", "activation_checkpointing"):
        if not isinstance(options[name], bool):
            return invalid(f"train.{name}", options[name], "true or false")
    for name, most in (("accumulate", MAX_ACCUMULATE), ("processes", MAX_PROCESSES)):
        if not is_int(options[name], 1, most):
            return invalid(f"train.{name}", options[name], f"a whole number from 1 to {most}")
    if not is_number(options["clip"], 0, MAX_CLIP):
        return invalid("train.clip", options["clip"], f"a number from 0 (none) to {MAX_CLIP:g}")
    units = workers.get("gpus") if isinstance(workers, Mapping) else None
    if is_int(units, 1, MAX_INT) and options["processes"] > units:
        return invalid("train.processes", options["processes"], f"a whole number from 1 to workers.gpus, {units}")
    return None


def check_workers(workers: object, settings: Settings) -> Refusal | None:
    """How many workers, and which."""
    wrong = check_fields("workers.", workers, _WORKER_FIELDS, _WORKER_OPTIONAL)
    if wrong is not None:
        return wrong
    assert isinstance(workers, Mapping)
    if not is_int(workers["min"], 1, MAX_WORKERS):
        return invalid("workers.min", workers["min"], f"a whole number from 1 to {MAX_WORKERS}")
    if not is_int(workers["max"], workers["min"], MAX_WORKERS):
        return invalid("workers.max", workers["max"], f"a whole number from workers.min to {MAX_WORKERS}")
    if not is_int(workers["gpus"], 1, settings.max_gpus_per_offer):
        return invalid("workers.gpus", workers["gpus"], f"a whole number from 1 to {settings.max_gpus_per_offer}")
    for name in ("gpu", "region", "own"):
        values = workers.get(name, [])
        if not isinstance(values, list) or len(values) > 64 or not all(map(is_name, values)):
            return invalid(f"workers.{name}", values, "a list of at most 64 names")
    if not is_number(workers["vram_gib"], 0, MAX_VRAM_GIB):
        return invalid("workers.vram_gib", workers["vram_gib"], f"a number from 0 to {MAX_VRAM_GIB:g}")
    if not is_number(workers["reliability"], 0, 1):
        return invalid("workers.reliability", workers["reliability"], "a number from 0 to 1")
    if workers["isolation"] not in ISOLATIONS:
        return invalid("workers.isolation", workers["isolation"], "process or sandbox")
    if not is_int(workers.get("available_ms", 1), 1, TEN_YEARS_MS):
        return invalid("workers.available_ms", workers["available_ms"], "milliseconds from 1, up to ten years")
    if not isinstance(workers.get("movable", False), bool):
        return invalid("workers.movable", workers["movable"], "true or false")
    grow, most = workers.get("grow_below_nanos_per_gpu_hour", 1), settings.max_price_nanos_per_gpu_hour
    if not is_int(grow, 1, most):
        return invalid("workers.grow_below_nanos_per_gpu_hour", grow, f"a whole number of nano-dollars from 1 to {most}")
    return None


def check_limits(limits: object, settings: Settings, *, own: bool = False) -> Refusal | None:
    """Price, budget, deadline. A job that runs on its customer's own machines alone pays nothing and holds nothing."""
    wrong = check_fields("limits.", limits, _LIMIT_FIELDS, _LIMIT_OPTIONAL)
    if wrong is not None:
        return wrong
    assert isinstance(limits, Mapping)
    if not isinstance(limits.get("interruptible", False), bool):
        return invalid("limits.interruptible", limits["interruptible"], "true or false")
    for name, most in (
        ("max_price_nanos_per_gpu_hour", settings.max_price_nanos_per_gpu_hour),
        ("budget_nanos", settings.max_amount_nanos),
    ):
        if own and limits[name] != 0:
            return invalid(f"limits.{name}", limits[name], "0: with workers.own only machines are taken that cost nothing")
        if not own and not is_int(limits[name], 1, most):
            return invalid(f"limits.{name}", limits[name], f"a whole number of nano-dollars from 1 to {most}")
    if limits["deadline_ms"] is not None and not is_int(limits["deadline_ms"], 1, TEN_YEARS_MS):
        return invalid(
            "limits.deadline_ms", limits["deadline_ms"], "a duration in milliseconds up to ten years, or null"
        )
    return None


def _check_checkpoint(checkpoint: object) -> Refusal | None:
    wrong = check_fields("checkpoint.", checkpoint, ("every_rounds", "keep"), (*CHECKPOINT_DEFAULTS, "inner_state"))
    if wrong is not None:
        return wrong
    assert isinstance(checkpoint, Mapping)
    if not isinstance(checkpoint.get("inner_state", False), bool):
        return invalid("checkpoint.inner_state", checkpoint["inner_state"], "true or false")
    counts = {name: value for name, value in checkpoint.items() if name != "inner_state"}
    return _check_every("checkpoint", counts, tuple(counts))


def _check_evaluate(evaluate: object) -> Refusal | None:
    """By rounds, by the clock, or by both; of old jobs nothing is said."""
    wrong = check_fields("evaluate.", evaluate, (), ("every_rounds", "every_ms"))
    if wrong is not None:
        return wrong
    assert isinstance(evaluate, Mapping)
    for name, least, most in (("every_rounds", 1, MAX_EVERY_ROUNDS), ("every_ms", 1_000, MAX_EVERY_MS)):
        if name in evaluate and not is_int(evaluate[name], least, most):
            return invalid(f"evaluate.{name}", evaluate[name], f"a whole number from {least} to {most}")
    return None


def _check_every(section: str, options: object, names: tuple[str, ...]) -> Refusal | None:
    """A section of counts of rounds, each of which may be missing."""
    wrong = check_fields(f"{section}.", options, (), names)
    if wrong is not None:
        return wrong
    assert isinstance(options, Mapping)
    for name, value in options.items():
        if not is_int(value, 1, MAX_EVERY_ROUNDS):
            return invalid(f"{section}.{name}", value, f"a whole number from 1 to {MAX_EVERY_ROUNDS}")
    return None


def check_tags(tags: object) -> Refusal | None:
    """Tags are up to 32 short texts under short names."""
    if not isinstance(tags, Mapping) or len(tags) > 32:
        return invalid("tags", tags, "a mapping of at most 32 entries")
    for name, value in tags.items():
        if not (is_name(name) and is_text(value, 128)):
            return invalid(f"tags.{name}", value, "a text of at most 128 characters under a short name")
    return None
