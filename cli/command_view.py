"""A batch job for people: its plan, its command, how that ended, and its output as it comes."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cli.arguments import megabytes, usd
from cli.errors import Exit
from cli.output import document, log, printable
from cli.session import connect_pooled
from cli.settings import Settings
from storage.units import format_duration
from trainers.attempts import shown

if TYPE_CHECKING:
    from market.client import Market

PATIENCE_S = 60.0
LOG_WAIT_S = 20.0
OWN_SOURCE = "run"
INTERRUPTED = 130


def command_facts(spec: dict[str, Any], plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What a plan says of the command: what it is, with which files, for how long at most."""
    command, lasts_s = spec["command"], plan.get("budget_lasts_s")
    facts = [("job", f"{spec['name']}: {shown(command['argv'])}"), ("files", _files(command["workdir"]))]
    if command.get("requirements"):
        facts.append(("packages", f"{_listed(command['requirements'])}; built on the machine, unless they are there"))
    if command.get("launch"):
        facts.append(("launch", f"{spec['workers']['gpus']} processes of it on one machine, as {command['launch']} starts them"))
    if command["env"]:
        facts.append(("env", ", ".join(command["env"])))
    if command["artifacts"]:
        facts.append(("kept", ", ".join(command["artifacts"])))
    until = "no timeout" if command["timeout_ms"] is None else f"timeout {format_duration(command['timeout_ms'])}"
    retries = f", up to {command['retries']} more tries if it fails" if command["retries"] else ""
    facts.append(("ends", until + retries))
    if lasts_s is not None:
        facts.append(("lasts", f"the budget pays for {format_duration(1_000 * lasts_s)}; the command is stopped then"))
    return facts


def _listed(lines: list[str]) -> str:
    more = f" and {len(lines) - 4} more" if len(lines) > 4 else ""
    return ", ".join(lines[:4]) + more


def _files(workdir: dict[str, Any] | None) -> str:
    return "none: an empty folder" if workdir is None else f"{workdir['label']}/, {megabytes(workdir['bytes'])}"


def job_lines(one: dict[str, Any]) -> Iterator[str]:
    """A batch job's lines on the page of `torg job`."""
    command = one["command"]
    yield f"command  {shown(command['argv'])}" + (f"  (by {command['launch']})" if command.get("launch") else "")
    if command.get("requirements"):
        yield f"packages {_listed(command['requirements'])}"
    for attempt in command["attempts"]:
        took = format_duration(attempt["duration_ms"])
        yield f"try {attempt['number']:<5}{attempt['detail'] or attempt['kind']}, after {took} ({attempt['lease']})"
    if command.get("lost"):
        yield f"lost     {command['lost']} when a machine went, or the job paused or ended"
    if command["exit_code"] is not None:
        yield f"exit     {command['exit_code']}"


def follow_command(settings: Settings, job_id: str) -> int:
    """Print a batch job's output until it is over; answers the exit code to end with. With --json only the job, at its end.

    Interrupted, it leaves the job running and says how to go on.
    """
    with connect_pooled(settings, "customer", patience_s=PATIENCE_S) as client:
        if not settings.as_json:
            log(_say_where(client.job(job_id)))
        try:
            for source, text in printed_lines(client, job_id):
                if settings.as_json:
                    continue
                if source == OWN_SOURCE:
                    log(printable(text))
                else:
                    print("\t".join(map(printable, text.split("\t"))), flush=True)
        except KeyboardInterrupt:
            log(f"\ntorg: {job_id} goes on. Follow it: torg logs {job_id} -f   End it: torg cancel {job_id}")
            return INTERRUPTED
        last = client.job(job_id)
    if settings.as_json:
        document(last)
    else:
        _say_end(last)
    return exit_code(last)


def printed_lines(client: "Market", job_id: str) -> Iterator[tuple[str, str]]:
    """(source, text) of every line of the job's log, until the job is over."""
    after, over, rest = 0, False, ""
    while not over:
        answer = client.job_logs(job_id, after=after, wait_s=LOG_WAIT_S)
        after, over = answer["next"], answer["over"]
        *whole, rest = (rest + answer["text"]).split("\n")
        for line in whole:
            head, bar, text = line.partition(" | ")
            yield (head.partition(" ")[2], text) if bar else (OWN_SOURCE, line)


def exit_code(job: dict[str, Any]) -> int:
    """How `torg run` ends: as the command did, where that is what ended the job; else 1, or 0 when the job is done."""
    if job["state"] == "done":
        return int(Exit.DONE)
    code = job["command"]["exit_code"]
    own = job["state"] == "failed" and job["reason"] in ("command_failed", "requirements") and code
    return int(code) if own else int(Exit.FAILED)


def _say_where(job: dict[str, Any]) -> str:
    """Whose output is to come, and why it does not, where that is known."""
    why = (job.get("detail") or "").partition("\n")[0] if job["state"] in ("pending", "paused") else ""
    return printable(f"torg: {job['id']} is {job['state']}" + (f": {why}" if why else ""))


def _say_end(job: dict[str, Any]) -> None:
    told = f"torg: {job['id']} is {job['state']}"
    if job["state"] != "done":
        why = (job.get("detail") or "").partition("\n")[0] or job.get("reason") or ""
        told += f": {why}" if why else ""
    artifacts = f"; torg result {job['id']} -o DIR fetches its artifacts" if job.get("manifest") else ""
    log(printable(f"{told}, billed {usd(job['billed_nanos'])}{artifacts}"))
    sys.stdout.flush()
