"""What a worker says, checked before a run builds on it: its machine is somebody else's. Pure.

Each check returns what it was given, or raises BadAnswer, which costs the worker its place. What a worker says rightly
formed and falsely is found by comparing (`trainers.rounds`, `trainers.standings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainers.actors.failures import LEAVING
from trainers.attempts import KINDS

Json = dict[str, Any]
Check = Callable[[Any], bool]

MOST = 1 << 62
MOST_TEXT = 1 << 20
FAILURES = frozenset(
    {"exception", "nan", "shape", "memory", "hang", "died", "import", "stale", "no_donor", *LEAVING}
)  # fmt: skip


class BadAnswer(Exception):
    """Not what a worker of ours says; the message names the field."""


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST  # NaN is not


def _digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value))


def _reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(slot, str) and slot.isdecimal() and len(slot) < 10 and _text(why) for slot, why in value.items()
    )


def _evaluations(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _count(one.get("round")) and _number(one.get("loss")) for one in value
    )


def _lines(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and _text(one.get("line"))
        and _text(one.get("source"))
        and _count(one.get("at_ms"))
        and _count(one.get("number"))
        for one in value
    )


def _files(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list)
        and len(one) == 4
        and _text(one[0])
        and _digest(one[1])
        and _count(one[2])
        and _is_flag(one[3])
        for one in value
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _ended(value: Any) -> bool:
    """How a command ended: a code with an exit, a number with a signal, and neither else."""
    if not isinstance(value, dict) or not (_text(value.get("detail")) and _text(value.get("tail"))):
        return False
    kind, code, number = value.get("kind"), value.get("code"), value.get("signal")
    right = _byte(code) == (kind == "exit") and _byte(number) == (kind == "signal")
    return kind in KINDS and right and _count(value.get("duration_ms"))


def _byte(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _tensors(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _text(one.get("name")) and _counts(one.get("shape")) and _text(one.get("dtype"))
        for one in value
    )


def _names(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(name) and _text(other) for name, other in value.items())


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_STANDING: Mapping[str, Check] = {"round": _count, "step": _count, "position": _count}
_METER: Mapping[str, Check] = {"leased_ms": _count, "trained_ms": _count}
_FAILURE: Mapping[str, Check] = {"kind": FAILURES.__contains__, "message": _text, "traceback": _text}
_TRAINED: Mapping[str, Check] = {
    "round": _count, "loss": _number, "steps": _count, "tokens": _count, "contribution": _digest,
}  # fmt: skip
_WIRE: Mapping[str, Check] = {"sent_bytes": _count, "received_bytes": _count, "stall_ms": _count}
_MERGED: Mapping[str, Check] = {
    "round": _count, "digest": _digest, "accepted": _counts, "refused": _reasons, "contribution": _text, **_WIRE, **_METER,
}  # fmt: skip
_ANSWERS: Mapping[str, Mapping[str, Check]] = {
    "load": _STANDING,
    "connect": {"address": lambda value: _text(value) and ":" in value},
    "prepare": _STANDING,
    "recall": {"found": _is_flag},
    "restore": _STANDING,
    "train": _TRAINED,
    "merge": _MERGED,
    "begin": {"number": _count},
    "outcome": {"number": _count, "outcome": _or_none(_ended)},
    "end_command": {},
    "artifacts": {"number": _count, "files": _files, "unmatched": _texts, "left_out": _count},
    "saved": {"number": _count, "saved": _is_mapping, "waiting": _texts, "spent_ms": _count, "cores": _count},
    "lacks": {"lacking": _texts},
    "put_blocks": {},
}
_SNAPSHOT: Mapping[str, Check] = {
    "round": _count, "step": _count, "digest": _digest, "kind": _text, "bytes": _count, "stall_ms": _count,
    "strategy": _is_mapping, "inner": _is_flag, "buffers": _is_flag, "tensors": _tensors, "tied": _names,
}  # fmt: skip
_READING: Mapping[str, Check] = {
    "seen": _count, "unreachable": _counts, "moved_bytes": _count, "rounds": _count, "tokens": _count, "bytes": _count,
    "evaluated": _evaluations, "logs": _lines, **_METER,
}  # fmt: skip
_RECENT: Mapping[str, Check] = {
    "round": _count, "step": _count, "digest": _digest, "contribution": _text, **_WIRE, **_METER,
}  # fmt: skip


def checked_answer(kind: str, answer: Any) -> Json:
    """What a worker answers to that call of a run."""
    found = _answered(kind, answer)
    if not found["ok"]:
        return found
    if kind == "merge" and found.get("left"):
        return {
            "left": True,
            **{name: str(found.get(name) or "")[:MOST_TEXT] for name in ("why", "spoiled")},
            "ok": True,
        }
    _fields(kind, found, _ANSWERS[kind])
    if kind == "merge":
        _told(kind, found)
    return found


def checked_snapshot(answer: Any, round: int, digest: str | None, wanted: str) -> Json:
    """What a worker answers to `snapshot` of that round, whose state has that digest (None: each member's has its own)."""
    found = _answered("snapshot", answer)
    if not found["ok"]:
        return found
    _fields("snapshot", found, _SNAPSHOT)
    kinds = ("base", "delta") if wanted == "delta" else ("base",)
    if found["round"] != round or digest not in (None, found["digest"]) or found["kind"] not in kinds:
        told = f"a {found['kind']} of round {found['round']} with digest {found['digest'][:12]}"
        raise BadAnswer(f"it set aside {told}, where a {wanted} of round {round} was wanted, {str(digest)[:12]}")
    return found


def checked_reading(answer: Any) -> Json:
    """What a worker answers to `reading`."""
    return _fields("reading", _mapping("reading", answer), _READING)


def checked_state(answer: Any) -> Json:
    """What a worker answers to `state`; its `recent` rounds too."""
    found = _mapping("state", answer)
    if found.get("round") is not None:
        _fields(
            "state", found, {**_STANDING, "digest": _digest, "strategy": _or_none(lambda one: isinstance(one, dict))}
        )
    recent = found.get("recent")
    if not isinstance(recent, list):
        raise BadAnswer("its answer to state has no list of recent rounds")
    for one in recent:
        _told("state", _fields("state", _mapping("state", one), _RECENT))
    return found


def _answered(kind: str, answer: Any) -> Json:
    """Fields that say whether they are an answer, and when not, why."""
    found = _mapping(kind, answer)
    if type(found.get("ok")) is not bool:
        raise BadAnswer(f"its answer to {kind} does not say whether it is one")
    return found if found["ok"] else _fields(kind, found, _FAILURE)


def _told(kind: str, answer: Json) -> None:
    """What was trained, in an answer about what was merged: nothing, or as `train` answers it."""
    info = answer.get("info")
    if info is not None:
        _fields(kind, _mapping(kind, info), _TRAINED)


def _mapping(kind: str, answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise BadAnswer(f"its answer to {kind} is {type(answer).__name__}, not fields")
    return answer


def _fields(kind: str, answer: Json, checks: Mapping[str, Check]) -> Json:
    for name, check in checks.items():
        try:
            right = check(answer.get(name))
        except (TypeError, ValueError):  # unhashable, for example
            right = False
        if not right:
            raise BadAnswer(f"its answer to {kind} has no usable {name!r}: {str(answer.get(name))[:80]!r}")
    return answer
