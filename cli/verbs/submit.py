"""`torg submit`: a job file becomes a job: read, packed, uploaded, priced, asked about, submitted."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import megabytes, usd
from cli.errors import Exit, refused, usage
from cli.estimate_view import outlook_facts, plan_facts
from cli.output import Column, console, document, log, print_table, printable
from cli.session import connect_pooled, once
from cli.settings import Settings
from market.traffic import EXCHANGE_SHARE, format_speed
from storage.units import counted, format_duration, format_instant
from trainers.options import keeps_inner_state
from trainers.round_lengths import lengths_said

if TYPE_CHECKING:
    from cli.jobfiles import Prepared
    from market.client import Market


NO_OPTIONS: Mapping[str, str] = {}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("submit")(submit)


def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="see examples/")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan; nothing is uploaded or submitted")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="watch it until it is over")] = False,
    id: Annotated[str | None, typer.Option(help="name of this job: the same id twice is one job")] = None,
) -> None:
    """Submit a job: plan, (y/N), budget into escrow."""
    from cli.jobfiles import prepare

    settings: Settings = ctx.obj
    with prepare(file) as prepared, connect_pooled(settings, "customer") as client:
        made = place(settings, client, prepared, id, yes=yes, dry_run=dry_run)
    if follow and "command" in prepared.spec:
        from cli.command_view import follow_command

        raise typer.Exit(follow_command(settings, made["id"]))
    if follow:
        from cli.verbs.watch import end_as
        from cli.verbs.watch import follow as follow_job

        end_as(follow_job(settings, made["id"]))
    elif settings.as_json:
        document(made)
    else:
        verb = "logs -f" if "command" in prepared.spec else "watch"
        print(f"{made['id']} is {made['state']}.  torg {verb} {made['id']}")


def place(
    settings: Settings, client: "Market", prepared: "Prepared", id: str | None, *, yes: bool, dry_run: bool,
    options: Mapping[str, str] = NO_OPTIONS,
) -> dict[str, Any]:  # fmt: skip
    """The job as the market has taken it: plan, question, upload, submission. Ends here with `dry_run`.

    options: what people are told instead of a field of a job file, where they did not write one.
    """
    plan = client.quote(prepared.spec)
    if not settings.as_json:
        plan = spoken(plan, options)
    if dry_run or not settings.as_json:
        show(settings, prepared.spec, plan, only=dry_run)
    if dry_run:
        raise typer.Exit(Exit.DONE if plan["feasible"] else Exit.REFUSED)
    _heed(client, id, plan)
    ask(settings, prepared.spec, yes)
    _upload(settings, client, prepared)
    with once(id, "job") as made:
        return client.submit_job(made, prepared.spec)


def spoken(told: Any, options: Mapping[str, str]) -> Any:
    """The same with every text in words of the command line."""
    if isinstance(told, dict):
        return {name: spoken(value, options) for name, value in told.items()}
    if isinstance(told, list):
        return [spoken(one, options) for one in told]
    if isinstance(told, str):
        for field, option in options.items():
            told = told.replace(field, option)
    return told


def _heed(client: "Market", id: str | None, plan: dict[str, Any]) -> None:
    """Say now what the market would say after all has been uploaded; a job that is there already is not asked for anew."""
    no = plan.get("refusal")
    if no is not None and (id is None or not _is_there(client, id)):
        raise refused(no["code"], no["message"], field=no["field"], remedy=no["remedy"])


def _is_there(client: "Market", id: str) -> bool:
    from market.client import Refused

    try:
        client.job(id)
    except Refused:
        return False
    return True


def _upload(settings: Settings, client: "Market", prepared: "Prepared") -> None:
    """With a bar where somebody looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    screen = console(settings, stderr=True)
    columns = (TextColumn("upload"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task = bar.add_task("upload", total=None)
        prepared.upload(
            client, told=None if settings.as_json else log,
            progress=lambda sent, total: bar.update(task, completed=sent, total=total),
        )  # fmt: skip


def show(settings: Settings, spec: dict[str, Any], plan: dict[str, Any], *, only: bool) -> None:
    """The plan, for people or (`only`) as the whole answer."""
    if not settings.as_json:
        show_plan(settings, spec, plan)
    elif only:
        document({"spec": spec, "plan": plan})


def ask(settings: Settings, spec: dict[str, Any], yes: bool) -> None:
    """Whether to go on, unless that was said."""
    if yes:
        return
    if not sys.stdin.isatty() or settings.as_json:
        raise usage("nobody is there to confirm", field="-y", remedy="add -y", code="not_confirmed")
    budget = spec["limits"]["budget_nanos"]
    answer = input(f"{f'Hold {usd(budget)} in escrow and submit' if budget else 'Submit'}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise refused("not_confirmed", "nothing was submitted")


PRICES = {
    "ask": "by rule `ask`: each machine costs what its offer asks",
    "uniform": "by rule `uniform`: all machines of a model and region that are let at the same time cost the same, never above your limit",
}


def show_plan(settings: Settings, spec: dict[str, Any], plan: dict[str, Any]) -> None:
    """The plan for people: what was asked, what it would get, for how much."""
    screen = console(settings)
    for name, value in _facts(spec, plan):
        screen.print(f"  {name:<9} {printable(value)}", markup=False, soft_wrap=False)
    candidates = plan.get("candidates") or []
    if candidates:
        rows = [
            [one.get("provider", ""), f"{one.get('gpus', 1)} × {one.get('gpu', '')}", usd(one.get("price_nanos_per_gpu_hour")),
             str(one.get("region") or "–"), str(one.get("offer") or one.get("id") or "")]
            for one in candidates
        ]  # fmt: skip
        print_table(settings, _candidates("run" if "command" in spec else "train"), rows)


def _candidates(verb: str) -> tuple[Column, ...]:
    return (
        Column(f"would {verb} on"), Column("gpu"), Column("$/GPU-h", right=True), Column("region", gives_way=2),
        Column("offer", gives_way=1),
    )  # fmt: skip


def _facts(spec: dict[str, Any], plan: dict[str, Any]) -> list[tuple[str, str]]:
    return [*_what(spec, plan), *_when(plan), *_why_not(plan)]


def _what(spec: dict[str, Any], plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The job, its data, its workers, its money."""
    workers, limits = spec["workers"], spec["limits"]
    count = str(workers["min"]) if workers["min"] == workers["max"] else f"{workers['min']} to {workers['max']}"
    kinds = " or ".join(workers["gpu"]) or "any GPU"
    limit, budget = usd(limits["max_price_nanos_per_gpu_hour"]), usd(limits["budget_nanos"])
    own = " and ".join(workers.get("own", ()))
    most = f"only your own of {own}" if own else f"at most {limit} per GPU-hour"
    stays = f", there for {format_duration(workers['available_ms'])}" if "available_ms" in workers else ""
    stays += ", movable" if workers.get("movable") else ""
    asked = [
        ("workers", f"{count} of {workers['gpus']} × {kinds}, {most}{stays}"),
        *([("price", PRICES[plan["price_rule"]])] if plan.get("price_rule") in PRICES else []),
        ("budget", "none: your own machines cost nothing" if own else f"{budget} into escrow; what is left comes back"),
        *(("limit", _room(one)) for one in plan.get("limits") or []),
    ]
    data = ("data", _data(spec["data"]))
    if "command" in spec:
        from cli.command_view import command_facts

        return [*command_facts(spec, plan), *([] if spec["data"]["kind"] == "none" else [data]), *asked]
    workload = spec["workload"]
    what = workload["name"] if workload["kind"] == "builtin" else f"{workload['filename']}:{workload['class_name']}"
    strategy = " ".join(str(spec["strategy"][name]) for name in ("name", "codec") if spec["strategy"].get(name))
    turns = f" of {lengths_said(spec['strategy'], spec['steps'])}" if "later_from" in spec["strategy"] else ""
    job = f"{spec['name']}: {what}, {counted(spec['steps'], 'step')} in {counted(spec['rounds'], 'round')}{turns}, {strategy}"
    held_out = _evaluated(spec.get("evaluate") or {"every_rounds": 1})
    return [("job", job), data, *asked, ("kept", _kept(spec)), ("held out", held_out)]


def _when(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What it sends, how long it takes, what it costs, as far as that is known."""
    facts: list[tuple[str, str]] = []
    traffic = _traffic(plan)
    if traffic:
        facts.append(("network", traffic))
    facts += plan_facts(plan) + outlook_facts(plan.get("outlook") or {})
    facts += [("advice", sentence) for sentence in plan.get("advice") or []]
    return facts


def _room(limit: dict[str, Any]) -> str:
    """What a spending limit leaves."""
    whose = f"{limit['of']} {limit['name']} may spend {usd(limit['limit_nanos'])} a {limit['period']}"
    until = format_instant(limit["ends_ms"])[:16].replace("T", " ")
    return f"{whose}: {usd(limit['left_nanos'])} are left until {until} UTC"


def _why_not(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Why the market would not take it, or nobody would begin it now, and what would help."""
    said, detail = plan.get("refusal"), str(plan.get("detail") or plan.get("reason") or "")
    told = [] if said is None else [("refused", said["message"]), *([("would help", said["remedy"])] if said["remedy"] else [])]
    if plan["feasible"] or (said is not None and detail.startswith(said["message"])):
        return told
    short = plan.get("price_short")
    gap = [] if not short else [("price", f"the limit is {usd(short['short_nanos'])} per GPU-hour ({short['short_percent']} %) short")]
    words = plan.get("would_help")
    helps = [("would help", words)] if words else [("would help", str(one)) for one in plan.get("relaxations") or []]
    return [*told, ("no match", detail), *gap, *helps]


def _kept(spec: dict[str, Any]) -> str:
    checkpoint = spec["checkpoint"]
    inner = ", with the inner optimiser's state" if keeps_inner_state(checkpoint, spec["strategy"]) else ""
    return f"a checkpoint {_every(checkpoint['every_rounds'])}, the newest {checkpoint['keep']}{inner}"


def _evaluated(evaluate: dict[str, Any]) -> str:
    how = [_every(evaluate["every_rounds"])] if "every_rounds" in evaluate else []
    how += [f"every {evaluate['every_ms'] / 1000:g} s at a round's end"] if "every_ms" in evaluate else []
    return f"loss measured {' and '.join(how)}, and at the end"


def _every(rounds: int) -> str:
    return "every round" if rounds == 1 else f"every {rounds} rounds"


def _traffic(plan: dict[str, Any]) -> str:
    each, hour = plan.get("sent_bytes_per_worker_round"), plan.get("sent_bytes_per_worker_hour")
    if each is None:
        return ""
    rate = "" if hour is None else f", about {megabytes(hour)} an hour"
    needed = plan.get("needed_bits_per_second")
    link = "" if needed is None else f"; at most {EXCHANGE_SHARE * 100:g} % of the time from {format_speed(needed)} on"
    return f"{plan['strategy']}: each worker sends about {megabytes(each)} a round{rate}{link}"


def _data(data: dict[str, Any]) -> str:
    if data["kind"] == "blob":
        return f"{data['label']}, {counted(data['bytes'], 'byte')}"
    return f"share:{data['name']}" if data["kind"] == "share" else "none"
