"""`torg watch` and `--follow`: a job while it lives."""

import json
import sys
from typing import Annotated, Any

import typer

from cli.errors import Exit
from cli.live import FINAL, RunView
from cli.output import console, document, printable
from cli.round_lines import RoundLine
from cli.session import connect, connect_pooled
from cli.settings import Settings

PATIENCE_S = 60.0
REFRESH_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("watch")(watch)


def watch(
    ctx: typer.Context,
    job_id: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="default: the newest job that is not over")
    ] = None,
) -> None:
    """Live rounds, loss, tokens/s, goodput, bytes, dollars, workers, deaths; with --json a line for each round."""
    settings: Settings = ctx.obj
    if job_id is None:
        found = [one for one in connect(settings, "customer").jobs() if one["state"] not in FINAL]
        if not found:
            if not settings.as_json:
                print("No job is alive.")
            return
        job_id = str(max(found, key=lambda one: (one.get("submitted_ms") or 0, one["id"]))["id"])
    end_as(stream(settings, job_id) if settings.as_json else follow(settings, job_id))


def stream(settings: Settings, job_id: str) -> dict[str, Any]:
    """One JSON line for each committed round, and one of `type` end; answers the job.

    A round's line is printed when its held-out loss is known, or with the next round where it is not measured.
    """
    with connect_pooled(settings, "customer", patience_s=PATIENCE_S) as client:
        client.job(job_id)  # refused at once where there is none
        view = RunView(job_id)
        waiting: RoundLine | None = None
        for record in client.job_events(job_id):
            view.fold(record)
            kind = record["event"]["type"]
            if kind == "round_committed":
                _print_line(waiting)
                waiting = view.rounds[-1]
            elif kind == "round_evaluated" and waiting is not None and waiting.held_out_loss is not None:
                _print_line(waiting)
                waiting = None
        _print_line(waiting)
        last = client.job(job_id)
    end = {name: last[name] for name in ("state", "reason", "rounds_committed", "loss_last", "billed_nanos")}
    if last.get("command"):
        end["exit_code"] = last["command"]["exit_code"]
    print(json.dumps({"type": "end", "job": job_id, **end}), flush=True)
    return last


def _print_line(line: RoundLine | None) -> None:
    if line is not None:
        print(json.dumps(line.document(), ensure_ascii=False), flush=True)


def follow(settings: Settings, job_id: str) -> dict[str, Any]:
    """Tell a job's life until its final state; answers the job. `--json` tells nothing before the end."""
    with connect_pooled(settings, "customer", patience_s=PATIENCE_S) as client:
        first = client.job(job_id)
        view = RunView(job_id, name=first["name"], planned=first["rounds_planned"], budget_nanos=first["budget_nanos"])
        view.argv = list((first.get("command") or {}).get("argv") or ())
        if settings.as_json:
            for record in client.job_events(job_id):
                view.fold(record)
        elif sys.stdout.isatty():
            _live(settings, view, client)
        else:
            for record in client.job_events(job_id):
                for told in view.fold(record):
                    for line in told.splitlines():  # a traceback has many
                        print(printable(line), flush=True)
        last = client.job(job_id)
    if settings.as_json:
        document(last)
    return last


def end_as(job: dict[str, Any]) -> None:
    """Exit 1 when the job did not come to a good end."""
    if job["state"] in ("failed", "cancelled"):
        raise typer.Exit(Exit.FAILED)


def _live(settings: Settings, view: RunView, client: Any) -> None:
    from rich.live import Live

    from cli.picture import render

    screen = console(settings)
    with Live(render(view, screen.width, screen.height), console=screen, refresh_per_second=4, transient=False) as live:
        for record in client.job_events(view.job):
            view.fold(record)
            live.update(render(view, screen.width, screen.height))
