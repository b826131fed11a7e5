"""Checks of a batch job's spec: a command instead of a workload, on one worker. Nothing in it is trusted.

`check_job_spec` is the door for specs of either kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from market.checking import (
    MAX_DATA_BYTES,
    check_data,
    check_fields,
    check_limits,
    check_size,
    check_spec,
    check_tags,
    check_workers,
    invalid,
    is_digest,
    is_int,
    is_name,
    is_text,
)
from market.outcomes import Refusal, Settings
from storage.parts import MAX_PARTS
from trainers.globs import BadPattern, checked_pattern
from trainers.launches import LAUNCHES, VARIABLES, launcher_in
from trainers.requirement_lines import is_normal

MAX_ARGUMENTS: Final = 1_000
MAX_ARGUMENT_CHARACTERS: Final = 100_000
MAX_VARIABLES: Final = 256
MAX_PATTERNS: Final = 100
MAX_RETRIES: Final = 100
MAX_TIMEOUT_MS: Final = 30 * 86_400_000
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SECRET: Final = VARIABLE
MAX_SECRETS: Final = 64
RESERVED: Final = frozenset({"HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"})
RESERVED_PREFIX: Final = "TORG_"

_FIELDS: Final = ("name", "command", "data", "workers", "limits", "tags")
_COMMAND_FIELDS: Final = ("argv", "env", "workdir", "artifacts", "timeout_ms", "retries")


def is_command(spec: Mapping[str, Any]) -> bool:
    """Whether a spec is of a batch job."""
    return "command" in spec


def check_job_spec(spec: Mapping[str, Any], settings: Settings) -> Refusal | None:
    """The first thing wrong with a normalised job spec of either kind, or None."""
    return check_size("spec", dict(spec), settings.max_spec_bytes) or check_sized_spec(spec, settings)


def check_sized_spec(spec: Mapping[str, Any], settings: Settings) -> Refusal | None:
    """The same of a spec whose size was checked."""
    if not is_command(spec):
        return check_spec(spec, settings)
    wrong = check_fields("", spec, _FIELDS, ("wait",))
    if wrong is not None:
        return wrong
    if not is_name(spec["name"]):
        return invalid("name", spec["name"], "1 to 64 letters, digits, dots, dashes")
    if not isinstance(spec.get("wait", False), bool):
        return invalid("wait", spec["wait"], "true or false")
    return (
        _check_command(spec["command"])
        or check_data(spec["data"])
        or check_workers(spec["workers"], settings)
        or _check_one_worker(spec["workers"])
        or _check_launch(spec["command"], spec["workers"])
        or check_limits(spec["limits"], settings, own=bool(spec["workers"].get("own")))
        or check_tags(spec["tags"])
    )


def is_reserved(name: str) -> bool:
    """Whether an environment variable is ours to set."""
    return name in RESERVED or name.startswith(RESERVED_PREFIX)


def is_argument(value: object) -> bool:
    """Whether a text can be an argument of a program or the value of a variable."""
    return isinstance(value, str) and len(value) <= MAX_ARGUMENT_CHARACTERS and "\0" not in value


def _check_command(command: object) -> Refusal | None:
    wrong = check_fields("command.", command, _COMMAND_FIELDS, ("secrets", "network", "launch", "requirements"))
    if wrong is not None:
        return wrong
    assert isinstance(command, Mapping)
    argv = command["argv"]
    if not isinstance(argv, list) or not 1 <= len(argv) <= MAX_ARGUMENTS or not all(map(is_argument, argv)):
        return invalid("command.argv", argv, f"a list of 1 to {MAX_ARGUMENTS} texts")
    if not argv[0]:
        return invalid("command.argv", argv[0], "the name of a program")
    if not is_int(command["retries"], 0, MAX_RETRIES):
        return invalid("command.retries", command["retries"], f"a whole number from 0 to {MAX_RETRIES}")
    timeout = command["timeout_ms"]
    if timeout is not None and not is_int(timeout, 1_000, MAX_TIMEOUT_MS):
        return invalid("command.timeout_ms", timeout, f"milliseconds from 1000 to {MAX_TIMEOUT_MS}, or null")
    if not isinstance(command.get("network", False), bool):
        return invalid("command.network", command["network"], "true or false")
    if "requirements" in command and not is_normal(command["requirements"]):
        return invalid("command.requirements", command["requirements"], "names with versions in normal form, sorted, each once")
    return _check_env(command["env"]) or _check_secrets(command) or _check_workdir(command["workdir"]) or _check_artifacts(command["artifacts"])


def _check_env(env: object) -> Refusal | None:
    if not isinstance(env, Mapping) or len(env) > MAX_VARIABLES:
        return invalid("command.env", env, f"a mapping of at most {MAX_VARIABLES} variables")
    for name, value in env.items():
        if not isinstance(name, str) or VARIABLE.fullmatch(name) is None:
            return invalid("command.env", name, "the name of a variable: letters, digits, underscores")
        if is_reserved(name):
            return invalid("command.env", name, "free: torg sets it itself")
        if not is_argument(value):
            return invalid(f"command.env.{name}", value, f"a text of at most {MAX_ARGUMENT_CHARACTERS} characters")
    return None


def _check_secrets(command: Mapping[str, Any]) -> Refusal | None:
    names = command.get("secrets", [])
    if not isinstance(names, list) or len(names) > MAX_SECRETS or not all(isinstance(one, str) for one in names):
        return invalid("command.secrets", names, f"a list of at most {MAX_SECRETS} names")
    for number, name in enumerate(names):
        if SECRET.fullmatch(name) is None or is_reserved(name):
            return invalid("command.secrets", name, "the name of a variable that torg does not set itself")
        if name in command["env"] or name in names[:number]:
            return invalid("command.secrets", name, "a name that is there once: it is a variable of the command, too")
    return None


def _check_workdir(workdir: object) -> Refusal | None:
    if workdir is None:
        return None
    wrong = check_fields("command.workdir.", workdir, ("digest", "bytes", "label"), ("parts",))
    if wrong is not None:
        return wrong
    assert isinstance(workdir, Mapping)
    if not is_digest(workdir["digest"]):
        return invalid("command.workdir.digest", workdir["digest"], "a SHA-256 in hex")
    if not is_int(workdir["bytes"], 1, MAX_DATA_BYTES):
        return invalid("command.workdir.bytes", workdir["bytes"], f"a whole number of bytes from 1 to {MAX_DATA_BYTES}")
    if not is_int(workdir.get("parts", 1), 1, MAX_PARTS):
        return invalid("command.workdir.parts", workdir["parts"], f"how many, from 1 to {MAX_PARTS}")
    return (
        None if is_text(workdir["label"], 255) else invalid("command.workdir.label", workdir["label"], "a short text")
    )


def _check_artifacts(patterns: object) -> Refusal | None:
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS:
        return invalid("command.artifacts", patterns, f"a list of at most {MAX_PATTERNS} patterns")
    for pattern in patterns:
        try:
            checked_pattern(pattern if isinstance(pattern, str) else "")
        except BadPattern as bad:
            return Refusal("invalid", f"command.artifacts: {pattern!r:.80} {bad}", field="command.artifacts")
    return None


def _check_launch(command: Mapping[str, Any], workers: Mapping[str, Any]) -> Refusal | None:
    if "launch" not in command:
        return None
    if command["launch"] not in LAUNCHES:
        return invalid("command.launch", command["launch"], " or ".join(LAUNCHES))
    if workers["isolation"] != "sandbox":
        return invalid("workers.isolation", workers["isolation"], "sandbox: only there processes find each other")
    for name in (*command["env"], *command.get("secrets", ())):
        if name in VARIABLES:
            return invalid("command.env", name, "free: with launch torg sets it itself")
    launcher = launcher_in(command["argv"])
    if launcher is not None:
        return invalid("command.argv", launcher, "what each process runs, such as python train.py: launch starts them")
    return None


def _check_one_worker(workers: Mapping[str, Any]) -> Refusal | None:
    if (workers["min"], workers["max"]) == (1, 1):
        return None
    return invalid("workers.max", workers["max"], "1: a command runs on one machine; command.launch gives it several processes")
