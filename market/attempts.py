"""A batch job's command as the market knows it: the tries that ended by themselves, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from market.checking import MAX_INT, invalid, is_digest, is_int
from market.commands import ReportAttempt, ReportSave
from market.leases import Lease
from market.metering import job_of_run, lease_of, report_answer
from market.outcomes import Answer, Json, Refusal
from market.state import Job
from market.turn import Turn
from trainers.attempts import COUNTED, FAILED, REQUIREMENTS, shell_code

_ENDED_WITH_IT: Final = frozenset({"done", FAILED, REQUIREMENTS})


def report_attempt(turn: Turn, command: ReportAttempt) -> Answer | Refusal:
    """The next try has ended, or one that is known is told again."""
    job = job_of_run(turn, command.job, command.by)
    if isinstance(job, Refusal):
        return job
    refusal = _check(command)
    if refusal is not None:
        return refusal
    if job.command is None:
        return Refusal("no_command", f"{job.id} trains: it has no command", field="job", status=409)
    known = len(job.attempts)
    if job.state != "running" or command.number <= known:
        return report_answer(job, created=False)
    if command.number != known + 1:
        message = f"{job.id} has ended {known} tries, so that {command.number} is not the next"
        return Refusal("attempt_out_of_order", message, field="number", status=409)
    if lease_of(turn, job, command.lease, command.epoch) is None:
        return Refusal("no_members", f"{command.lease} is no lease of {job.id}", field="lease", status=409)
    fields: Json = {
        name: getattr(command, name) for name in ("job", "number", "lease", "epoch", "kind", "code", "signal")
    }
    fields |= {"duration_ms": command.duration_ms, "detail": turn.cut(command.detail), "manifest": command.manifest}
    turn.emit("attempt_ended", fields)
    return report_answer(job)


def report_save(turn: Turn, command: ReportSave) -> Answer | Refusal:
    """The command begins with these files when it begins again. The same again is answered."""
    job = job_of_run(turn, command.job, command.by)
    if isinstance(job, Refusal):
        return job
    for name in ("number", "bytes"):
        if not is_int(getattr(command, name), 0, MAX_INT):
            return invalid(name, getattr(command, name), "a count")
    if not is_digest(command.manifest):
        return invalid("manifest", command.manifest, "a SHA-256 in hex")
    if job.command is None:
        return Refusal("no_command", f"{job.id} trains: it has no command", field="job", status=409)
    same = job.saved is not None and job.saved["manifest"] == command.manifest
    if same or job.state != "running" or lease_of(turn, job, command.lease, command.epoch) is None:
        return report_answer(job, created=False)
    names = ("job", "number", "lease", "epoch", "manifest", "bytes")
    turn.emit("files_saved", {name: getattr(command, name) for name in names})
    return report_answer(job)


def _check(command: ReportAttempt) -> Refusal | None:
    if not is_int(command.number, 1, MAX_INT):
        return invalid("number", command.number, "a count from 1")
    if command.kind not in COUNTED:
        return invalid("kind", command.kind, f"{', '.join(COUNTED[:-1])} or {COUNTED[-1]}")
    for name, wanted in (("code", command.kind == "exit"), ("signal", command.kind == "signal")):
        value = getattr(command, name)
        if (value is not None) != wanted or (wanted and not is_int(value, 0, 255)):
            return invalid(
                name, value, f"a number from 0 to 255 where the kind is {name.replace('code', 'exit')}, else null"
            )
    if not is_int(command.duration_ms, 0, MAX_INT):
        return invalid("duration_ms", command.duration_ms, "milliseconds")
    if command.manifest is not None and not is_digest(command.manifest):
        return invalid("manifest", command.manifest, "a SHA-256 in hex")
    return None


def succeeded(job: Job) -> bool:
    """Whether the command has done what it was for."""
    return bool(job.attempts) and exit_code_of(job.attempts[-1]) == 0


def lost_tries(leases: Sequence[Lease]) -> int:
    """Tries that did not end by themselves: those of leases that ended under them."""
    return sum(not one.live and one.started_ms is not None and one.reason not in _ENDED_WITH_IT for one in leases)


def restarts(job: Job, leases: Sequence[Lease]) -> int:
    """How often the command began before it begins next."""
    return len(job.attempts) + lost_tries(leases)


def exit_code_of(attempt: Mapping[str, Any]) -> int:
    """As a shell would tell it."""
    return shell_code(attempt["kind"], attempt["code"], attempt["signal"])


def attempts_view(job: Job) -> list[Json]:
    """The tries that ended by themselves, oldest first, each with the exit code by which a shell would tell of it."""
    return [{**one, "exit_code": exit_code_of(one)} for one in job.attempts]


def command_view(job: Job, leases: Sequence[Lease]) -> Json | None:
    """What a batch job runs and how that went; None of a job that trains."""
    command = job.command
    if command is None:
        return None
    tries, running = attempts_view(job), any(one.live and one.started_ms is not None for one in leases)
    last = tries[-1] if tries else {"exit_code": None, "kind": None, "code": None, "signal": None, "detail": ""}
    return {
        "argv": list(command["argv"]),
        "launch": command.get("launch"),
        "requirements": list(command.get("requirements", ())),
        "exit_code": last["exit_code"],
        "ended_by": last["kind"],
        "status": last["code"],
        "signal": last["signal"],
        "detail": last["detail"],
        "retries": command["retries"],
        "restarts": max(0, restarts(job, leases) + running - 1),
        "lost": lost_tries(leases),
        "saved": job.saved,
        "attempts": tries,
    }
