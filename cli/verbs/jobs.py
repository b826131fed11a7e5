"""`torg jobs`, `job`, `cancel`, `resume`, `explain`, `logs`: follow and steer jobs."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import megabytes, usd, usd_nanos
from cli.errors import usage
from cli.estimate_view import outcome
from cli.output import Cell, Column, Styled, console, document, print_table, printable, show_list, tell
from cli.session import connect, connect_pooled, once
from cli.settings import Settings
from storage.units import TimeError, counted, format_duration, format_instant, parse_instant_ms

if TYPE_CHECKING:
    from market.client import Market

JobId = Annotated[str, typer.Argument(metavar="JOB", help="job id, such as job-1f2e3d4c5b")]
STATES = {"running": "green", "done": "blue", "failed": "bold red", "cancelled": "dim", "paused": "yellow"}
LOG_WAIT_S = 20
MATCHED = "matched"  # whose detail is how many workers it was matched with: they have lines of their own
FOLLOW_PATIENCE_S = 60.0


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("jobs")(jobs)
    app.command("job")(job)
    app.command("cancel")(cancel)
    app.command("resume")(resume)
    app.command("explain")(explain)
    app.command("logs")(logs)


def jobs(
    ctx: typer.Context,
    state: Annotated[str | None, typer.Option(help="only jobs in this state")] = None,
    role: Annotated[str, typer.Option(help="customer: one's own; operator: everybody's")] = "customer",
) -> None:
    """All jobs."""
    settings: Settings = ctx.obj
    found = [one for one in connect(settings, role).jobs() if state in (None, one["state"])]
    empty = "No jobs. `torg submit examples/01-tiny-gpt.yaml` makes one."
    show_list(settings, found, JOB_COLUMNS, job_row, empty=empty)


JOB_COLUMNS = (
    Column("job"), Column("name", gives_way=3), Column("state"), Column("rounds", right=True),
    Column("loss", right=True, gives_way=2), Column("workers", right=True, gives_way=4), Column("billed", right=True),
    Column("budget", right=True, gives_way=5), Column("reason", gives_way=6),
)  # fmt: skip


def job_row(one: dict[str, Any]) -> list[Cell]:
    """One job as the cells of `JOB_COLUMNS`."""
    loss = _fall(one, 3) or "–"
    return [
        one["id"], one["name"], Styled(one["state"], STATES.get(one["state"], "")),
        "–" if one.get("command") else f"{one['rounds_committed']}/{one['rounds_planned']}", loss, str(_living(one)),
        usd(one["billed_nanos"]), usd(one["budget_nanos"]), _why(one)[:48],
    ]  # fmt: skip


def _living(one: dict[str, Any]) -> int:
    return sum(worker["state"] in ("granted", "active", "started") for worker in one["workers"])


def _why(one: dict[str, Any]) -> str:
    """The reason of its state. The market calls a job running from its first match on, also while all of its workers are gone."""
    waits = one["state"] == "running" and one["reason"] == MATCHED and not _living(one)
    return "waits for workers" if waits else one["reason"] or ""


def _fall(one: dict[str, Any], digits: int) -> str:
    """The held-out loss after round 1 and the newest one, as far as they are known."""
    known = [f"{one[name]:.{digits}f}" for name in ("loss_first", "loss_last") if one[name] is not None]
    return " → ".join(known)


def job(ctx: typer.Context, job_id: JobId) -> None:
    """One job: state, rounds and loss, or its command and how it ended; workers, money."""
    settings: Settings = ctx.obj
    show_job(settings, connect(settings, "customer").job(job_id))


def show_job(settings: Settings, one: dict[str, Any]) -> None:
    """The document, or a page about this job."""
    if settings.as_json:
        document(one)
        return
    screen = console(settings)
    reason = f" – {why}" if (why := _why(one)) not in ("", one["state"]) else ""
    lines = [f"{one['id']}  {one['name']}", f"state    {one['state']}{reason}"]
    if one.get("command"):
        from cli.command_view import job_lines

        lines += job_lines(one)
    else:
        lines += _training(one)
    lines.append(
        f"money    billed {usd(one['billed_nanos'])}, escrow {usd(one['escrow_nanos'])}, budget {usd(one['budget_nanos'])}"
        + (f" ({percent} % used)" if (percent := one.get("budget_reached_percent")) else "")
        + (f", at this rate {usd(nanos)} at its end" if (nanos := one.get("forecast_nanos")) else "")
    )
    told = outcome(one.get("estimate"))
    lines += [f"estimate {told}"] if told else []
    for line in lines:
        screen.print(printable(line), markup=False)
    if one["state"] != "done" and one["reason"] != MATCHED:
        for line in (one.get("detail") or "").splitlines():
            screen.print(printable(f"         {line}"), markup=False, soft_wrap=True)
    if one["workers"]:
        columns = (Column("worker"), Column("provider"), Column("machine", gives_way=2),
                   Column("pid", right=True, gives_way=1), Column("state"))  # fmt: skip
        rows = [
            [w["id"], w["provider"], w.get("name") or "–", str(w["pid"] or "–"), w["state"]] for w in one["workers"]
        ]
        print_table(settings, columns, rows)


def _training(one: dict[str, Any]) -> Iterator[str]:
    """How it trains: how far, how well, the strategy, its history, speed and bytes."""
    yield f"rounds   {one['rounds_committed']} of {one['rounds_planned']}"
    if fall := _fall(one, 4):
        figures = "".join(f", {name} {value:.4g}" for name, value in (one.get("metrics_last") or {}).items())
        yield f"loss     {fall} (held out){figures}"
    strategy, sums = one.get("strategy") or {}, one.get("training") or {}
    if strategy:
        from trainers.round_lengths import lengths_said

        yield f"strategy {strategy['name']} {strategy.get('codec', '')}, {lengths_said(strategy, (one.get('spec') or {}).get('steps'))}".rstrip()
    for tuning in one.get("tunings") or ():
        since = f"from round {tuning['first_round']}" if tuning["first_round"] else "from the next boundary"
        yield f"         {tuning['strategy']['name']} {since} (asked after round {tuning['after_round']})"
    if sums.get("tokens_per_s") is not None:
        sent = f", {megabytes(sums['sent_bytes'])} sent" if sums.get("sent_bytes") else ""
        goodput = f", goodput {sums['goodput']:.0%}" if sums.get("goodput") is not None else ""
        yield f"training {sums['tokens_per_s']:,.0f} tokens/s{goodput}{sent}"


def cancel(ctx: typer.Context, job_id: JobId) -> None:
    """Stop a job: what was trained is charged, the rest of the budget comes back."""
    settings: Settings = ctx.obj
    client = connect(settings, "customer")
    answer = client.cancel_job(job_id)
    tell(settings, answer, f"{job_id} is {'cancelled' if answer.get('state') == 'cancelled' else 'being cancelled'}.")


def resume(
    ctx: typer.Context,
    job_id: JobId,
    add_budget: Annotated[str, typer.Option(metavar="USD", help="dollars to move from the wallet into its escrow")],
    id: Annotated[str | None, typer.Option(help="name of this budget: the same id twice counts once")] = None,
) -> None:
    """Let a job that ran out of escrow go on, with more budget."""
    settings: Settings = ctx.obj
    nanos = usd_nanos(add_budget, "--add-budget")
    with once(id, "topup") as made:
        answer = connect(settings, "customer").add_budget(job_id, id=made, add_nanos=nanos)
    tell(settings, answer, f"{job_id} has {usd(nanos)} more and is {answer['state']}.")


def explain(ctx: typer.Context, job_id: JobId) -> None:
    """Why a job has, or has not, got its workers."""
    settings: Settings = ctx.obj
    answer = connect(settings, "customer").explain(job_id)
    if settings.as_json:
        document(answer)
        return
    screen = console(settings)
    for line in _told(answer):
        screen.print(printable(line), markup=False)


def _told(answer: dict[str, Any]) -> Iterator[str]:
    """What is known of a job's match, line by line; what has a line of its own is not said again."""
    own = ("steps", "removed", "helps", "relaxations", "price_short", "would_help", "recent", "last_price_nanos_per_gpu_hour", "changes", "questioned")
    for name, value in answer.items():
        if name not in own and value is not None and value != [] and not (name == "detail" and answer.get("reason") == MATCHED):
            yield f"{name}: {value}"
    steps = answer.get("steps") or []
    if steps:
        yield f"offered: {steps[0]['left']} GPU"
        yield from (f"  {one['reason']}: {one['gpus']} fewer, {one['left']} left" for one in steps[1:])
    elif answer.get("removed"):
        yield "removed: " + ", ".join(f"{one['reason']} {one['gpus']}" for one in answer["removed"])
    short = answer.get("price_short")
    if short:
        now = "is free now" if short["free_now"] else "is listed, busy or not"
        yield f"price: {usd(short['short_nanos'])} per GPU-hour ({short['short_percent']} %) short of what {now}: {usd(short['needed_nanos'])}"
    if answer.get("would_help"):
        yield f"would match now: {answer['would_help']}"
    if answer.get("relaxations"):
        yield f"in the job file: {', or '.join(answer['relaxations'])}"
    for one in answer.get("questioned") or ():
        said = f"{one['provider']} says {one['worker_ms'] / 1000:,.1f} s, its run saw {one['agreed_ms'] / 1000:,.1f} s"
        yield f"in question: {one['lease']}: {said}; {usd(one['held_nanos'])} stay in escrow"
    for one in answer.get("changes") or ():
        yield f"{format_instant(one['at_ms'])}  {one['change']} to {one['workers']}: {one['why']}"
    recent = answer.get("recent")
    if recent:
        yield f"waits of the newest {counted(recent['jobs'], 'job')} that got machines: {_up_to(recent)}"
        if recent.get("of_gang"):
            yield f"  of gangs of {recent['gang']} GPU: {counted(recent['of_gang']['jobs'], 'job')}, {_up_to(recent['of_gang'])}"


def _up_to(waits: dict[str, Any]) -> str:
    shares = (("half", "median_ms"), ("9 of 10", "p90_ms"), ("99 of 100", "p99_ms"))
    return ", ".join(f"{share} up to {format_duration(waits[name])}" for share, name in shares if name in waits)


def logs(
    ctx: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job is over")] = False,
    tail: Annotated[int | None, typer.Option(metavar="N", min=0, help="only the last N lines of what is there")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="only lines since then: 10m, 2h (ago), or 2026-11-26T12:00:00Z")
    ] = None,
) -> None:
    """What the job's code and its run wrote."""
    settings: Settings = ctx.obj
    if settings.as_json and follow:
        raise usage("--json gives one document and cannot follow", field="--follow", remedy="leave one of them out")
    since_ms = None if since is None else _since_ms(since)
    if follow:
        with connect_pooled(settings, "customer", patience_s=FOLLOW_PATIENCE_S) as client:
            for text in _log_texts(client, job_id, tail, since_ms, follow=True):
                print(text, end="", flush=True)
        return
    texts = _log_texts(connect(settings, "customer"), job_id, tail, since_ms, follow=False)
    if settings.as_json:
        document({"id": job_id, "text": "".join(texts)})
        return
    for text in texts:
        print(text, end="", flush=True)


def _log_texts(client: "Market", job_id: str, tail: int | None, since_ms: int | None, *, follow: bool) -> Iterator[str]:
    """What is there, piece by piece, and with `follow` what comes until the job is over."""
    begin: dict[str, int | None] = {"tail": tail, "since_ms": since_ms}
    after, over = 0, False
    while not over:
        answer = client.job_logs(job_id, after=after, wait_s=LOG_WAIT_S if follow else 0, **begin)
        begin = {}
        moved, after = bool(answer["text"]), answer["next"]
        over = answer["over"] if follow else not moved
        yield answer["text"]


def _since_ms(text: str) -> int:
    """Milliseconds since the epoch of `10m` (ago) or of a time."""
    try:
        return parse_instant_ms(text, now_ms=time.time_ns() // 1_000_000)
    except TimeError as error:
        remedy = "10m, 2h, 3d, or a time such as 2026-11-26T12:00:00Z"
        raise usage(f"--since {text!r}: {error.message}", field="--since", remedy=remedy) from None
