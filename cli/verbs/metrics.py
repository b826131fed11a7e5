"""`torg metrics`: a job's rounds as files for other programs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import refused, usage
from cli.event_files import event_file
from cli.exports import write_lines
from cli.output import document
from cli.round_lines import RoundLine, lines_of
from cli.session import connect
from cli.settings import Settings
from cli.verbs.jobs import JobId
from storage.units import counted

SCALARS = (
    "loss", "held_out_loss", "tokens_per_s", "goodput", "members", "tokens", "duration_ms", "sent_bytes",
    "received_bytes", "sent_bytes_per_worker", "stall_ms", "attempts",
)  # fmt: skip
"""Fields of a round's line that become scalars, under the tag `torg/NAME`; the workload's figures: `torg/metrics/NAME`."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("metrics")(metrics)


def metrics(
    ctx: typer.Context,
    job_id: JobId,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="scalars for `tensorboard --logdir DIR`")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="one line a round")] = None,
) -> None:
    """Every committed round's figures as TensorBoard scalars, CSV, or with --json one document."""
    settings: Settings = ctx.obj
    if tensorboard is None and csv is None and not settings.as_json:
        raise usage("nowhere to write to", field="--tensorboard", remedy="name --tensorboard DIR, --csv FILE or --json")
    lines = list(lines_of(connect(settings, "customer").rounds(job_id)))
    written: list[str] = []
    if tensorboard is not None:
        written.append(str(_write_events(tensorboard / job_id, lines)))
    if csv is not None:
        write_lines([line.columns() for line in lines], "csv", csv)
        written.append(str(csv))
    if settings.as_json:
        document({"job": job_id, "written": written, "rounds": [line.document() for line in lines]})
    else:
        print(f"{counted(len(lines), 'round')} of {job_id}: {', '.join(written)}")


def _write_events(folder: Path, lines: Sequence[RoundLine]) -> Path:
    """The job's one event file, replaced as a whole, so that telling again adds nothing twice."""
    path = folder / "events.out.tfevents.0.torg"
    beside = folder / f".{path.name}.{os.getpid()}"
    rows = [
        (
            line.at_ms,
            line.step,
            {f"torg/{name}": value for name in SCALARS if (value := getattr(line, name)) is not None}
            | {f"torg/metrics/{name}": value for name, value in line.metrics.items()},
        )
        for line in lines
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(event_file(rows))
        beside.replace(path)
    except OSError as error:
        raise refused("not_writable", f"{folder}: {error.strerror}", field="--tensorboard") from error
    return path
