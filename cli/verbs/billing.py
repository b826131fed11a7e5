"""`torg billing`, `invoice`, `sql`: what was trained, by whom, for how much."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import exact_usd, usd
from cli.errors import CliError, refused, usage
from cli.estimate_view import outcome
from cli.output import Column, console, document, print_table, printable
from cli.session import connect
from cli.settings import Settings

GROUPS = ("job", "provider", "gpu", "day", "hour", "tag")
FORMATS = ("table", "json", "csv", "parquet")
FIELDS = (
    "job", "provider", "gpu", "period_start", "period_end", "gpu_ms", "trained_ms", "rounds",
    "unit_price_nanos_per_gpu_hour", "charged_nanos", "refunded_nanos", "granted_nanos",
    "credited_nanos", "credited_granted_nanos", "debited_nanos",
)  # fmt: skip
JOBS_OF_A_PAGE = 5_000
Role = Annotated[str, typer.Option(help="customer: what one pays; provider: what one earns; operator: all")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("billing")(billing)
    app.command("invoice")(invoice)
    app.command("sql")(sql)


def billing(
    ctx: typer.Context,
    by: Annotated[str | None, typer.Option(help="sum up by any of job,provider,gpu,day,hour,tag or tag:NAME")] = None,
    since: Annotated[str | None, typer.Option(help="2026-11-22, 2026-11-22T10:00Z, today, or 7d for ago")] = None,
    until: Annotated[str | None, typer.Option(help="the same; what begins at this moment is left out")] = None,
    job: Annotated[str | None, typer.Option(help="one job only")] = None,
    format: Annotated[str, typer.Option(help="table, json, csv or parquet")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="default: stdout")] = None,
    focus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write FOCUS 1.2 to FILE.csv or FILE.parquet, a row a job, provider, GPU and day")
    ] = None,
    role: Role = "customer",
) -> None:
    """Billing history; from the files when the market is down."""
    settings: Settings = ctx.obj
    if focus is not None:
        _only_focus(by=by, format=format if format != "table" else None, output=output)
        start, end = moments(since, until)
        _focus(settings, role, focus, start=start, end=end, job=job)
        return
    form = _one_of(format, FORMATS, "--format")
    if settings.as_json and form == "table":
        form = "json"
    if form == "parquet" and output is None:
        raise usage("parquet is not text", field="-o", remedy="name a file with -o FILE")
    groups = None if by is None else ",".join(_group(name.strip()) for name in by.split(","))
    start, end = moments(since, until)
    lines = _lines(settings, role, by=groups, start=start, end=end, job=job)
    if form == "json" and output is None:
        document(lines)
    elif form == "table" and output is None:
        _show(settings, lines)
        _show_disputes(settings, role)
        _show_forecasts(settings, role)
    else:
        from cli.exports import write_lines

        write_lines(lines, form, output)
        if output is not None and settings.as_json:
            document({"file": str(output), "lines": len(lines)})


def _only_focus(**others: object) -> None:
    for name, value in others.items():
        if value is not None:
            raise usage(f"--{name} does not go with --focus", field=f"--{name}", remedy="FOCUS has its own rows and columns")


def _focus(settings: Settings, role: str, file: Path, *, start: int | None, end: int | None, job: str | None) -> None:
    """What one pays as FOCUS; `cli/exports.py` writes it, `storage/focus.py` knows the columns."""
    from cli.exports import write_focus
    from storage.focus import GROUPS as BY
    from storage.focus import VERSION, focus_rows

    if role == "provider":
        raise usage("--focus is what one pays", field="--role", remedy="--role customer or operator")
    if file.suffix not in (".csv", ".parquet"):
        raise usage(f"--focus: {file.name} is neither .csv nor .parquet", field="--focus", remedy="name a file of either")
    lines = _lines(settings, role, by=",".join(BY), start=start, end=end, job=job)
    rows = focus_rows(lines, _jobs(settings, role))
    write_focus(rows, file)
    if settings.as_json:
        document({"file": str(file), "focus": VERSION, "rows": len(rows), "charges": len(lines)})
    else:
        print(f"{file}: {len(rows)} rows of FOCUS {VERSION}")


def _jobs(settings: Settings, role: str) -> dict[str, dict[str, Any]]:
    """Every job's customer, name and tags, in pages: an answer has at most so many rows."""
    from cli.offline import when_down

    found: dict[str, dict[str, Any]] = {}
    while True:
        page = f"SELECT job, customer, name, tags FROM jobs ORDER BY job LIMIT {JOBS_OF_A_PAGE} OFFSET {len(found)}"
        answer = when_down(
            settings,
            lambda page=page: connect(settings, role).sql(page),  # type: ignore[misc]
            lambda files, page=page: files.sql(page, role),  # type: ignore[misc]
        )
        found |= {job: {"customer": who, "name": name, "tags": tags} for job, who, name, tags in answer["rows"]}
        if len(answer["rows"]) < JOBS_OF_A_PAGE:
            return found


def invoice(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    role: Role = "customer",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="write it with its proof, for `torg verify`")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write it as a page to read and print")] = None,
) -> None:
    """The bill of one job, to the nano-dollar."""
    settings: Settings = ctx.obj
    if output is not None:
        from cli.verbs.proof import write_invoice

        write_invoice(settings, job_id, role, output)
        return
    from cli.offline import when_down

    answer = when_down(
        settings, lambda: connect(settings, role).invoice(job_id), lambda files: files.invoice(role, job_id)
    )
    if html is not None:
        _write_page(settings, answer, html)
    elif settings.as_json:
        document(answer)
    else:
        show_invoice(settings, answer)


def _write_page(settings: Settings, answer: dict[str, Any], path: Path) -> None:
    from market.invoice_page import invoice_page

    try:
        path.write_text(invoice_page(answer, settings.url or ""), encoding="utf-8")
    except OSError as error:
        raise refused("not_writable", f"{path}: {error.strerror}", field="--html") from error
    told = {"id": answer["job"], "file": str(path), "bytes": path.stat().st_size}
    if settings.as_json:
        document(told)
    else:
        print(f"{path}  {told['bytes']:,} bytes: open it in a browser, print it from there.")


def show_invoice(settings: Settings, answer: dict[str, Any]) -> None:
    """An invoice as its lines, its payments and its sums."""
    status = f"{answer['number']}, {answer['status']}  " if "number" in answer else ""
    title = f"Invoice {answer['job']}  {status}{answer.get('name') or ''}  {answer.get('state') or ''}".rstrip()
    print_table(settings, _INVOICE, [_invoice_row(line) for line in answer["lines"]], title=title)
    screen = console(settings)
    payments = answer.get("payments") or []
    sums = [(f"{one['kind']}_granted" if one.get("granted") else one["kind"], one["amount_nanos"]) for one in payments]
    sums += [
        (name, answer[f"{name}_nanos"])
        for name in ("billed", "billed_granted", "earnings", "fee", "refunded", "escrow")
        if f"{name}_nanos" in answer and (name != "billed_granted" or answer["billed_granted_nanos"])
    ]
    for name, nanos in sums:
        screen.print(f"  {_SUMS.get(name, name):<38}{exact_usd(nanos):>18}", markup=False)
    for line in answer["lines"]:
        if line.get("questioned_ms"):
            screen.print(f"  in question: {line['provider']} says {line['questioned_ms'] / 1000:,.1f} s more than its run saw; not charged", markup=False)
    for note in answer.get("notes") or ():
        word = "credit note" if note["kind"] == "credit_note" else "debit note"
        screen.print(f"  {word + ' ' + note['number']:<38}{exact_usd(note['amount_nanos']):>18}", markup=False)
        for name, where in (("granted", "  to granted credits"), ("expired", "  of it to grants that are over")):
            if note.get(f"{name}_nanos"):
                screen.print(f"  {where:<38}{exact_usd(note[f'{name}_nanos']):>18}", markup=False)
    if answer.get("notes"):
        screen.print(f"  {'due':<38}{exact_usd(answer['due_nanos']):>18}", markup=False)
        if answer.get("due_granted_nanos"):
            screen.print(f"  {'  from granted credits':<38}{exact_usd(answer['due_granted_nanos']):>18}", markup=False)
    for one in answer.get("disputes") or ():
        told = one["decision"] or f"{usd(one['held_nanos'])} held"
        screen.print(printable(f"  dispute {one['dispute']}, {one['state']}: {usd(one['amount_nanos'])}, {one['reason']} ({told})"), markup=False)
    rules = answer.get("price_rules") or []
    if rules:
        screen.print(f"  priced by rule {' and '.join(rules)}", markup=False)
    told = outcome(answer.get("estimate"))
    if told:
        screen.print(f"  estimated {told}", markup=False)


_SUMS = {
    "hold": "held at submit", "release": "given back", "hold_granted": "held of granted credits",
    "release_granted": "given back to granted credits", "billed": "billed", "billed_granted": "  from granted credits", "earnings": "  to the providers",
    "fee": "  to the market", "refunded": "metered but not charged", "escrow": "left in escrow",
}  # fmt: skip
_INVOICE = (
    Column("provider"), Column("gpu", gives_way=4), Column("what", gives_way=1), Column("metered", right=True, gives_way=3),
    Column("charged", right=True, gives_way=6), Column("rounds", right=True, gives_way=5),
    Column("$/GPU-h", right=True, gives_way=2), Column("amount", right=True), Column("ended by", gives_way=7),
)  # fmt: skip


def _invoice_row(line: dict[str, Any]) -> list[str]:
    used = line["kind"] == "usage"
    return [
        line["provider"], f"{line['gpus']} × {line['gpu']}", ("trained" if line["rounds"] else "ran") if used else "not charged",
        f"{line['metered_ms'] / 1000:,.1f} s", f"{line['charged_ms'] / 1000:,.1f} s", str(line["rounds"]),
        usd(line["unit_price_nanos_per_gpu_hour"]), exact_usd(line["amount_nanos"]),
        "own machine" if line["unit_price_nanos_per_gpu_hour"] == 0 else line["end_reason"] or "–",
    ]  # fmt: skip


def sql(
    ctx: typer.Context, statement: Annotated[str, typer.Argument(metavar="SELECT")], role: Role = "customer"
) -> None:
    """Read-only SQL over one's own books."""
    from cli.offline import when_down

    settings: Settings = ctx.obj
    answer = when_down(
        settings,
        lambda: connect(settings, role).sql(statement),
        lambda files: files.sql(statement, role),
    )
    if settings.as_json:
        document(answer)
        return
    rows = [["–" if cell is None else str(cell) for cell in row] for row in answer["rows"]]
    print_table(settings, [Column(str(name)) for name in answer["columns"]], rows)


def _lines(
    settings: Settings, role: str, *, by: str | None, start: int | None, end: int | None, job: str | None
) -> list[dict[str, Any]]:
    from cli.offline import when_down

    return when_down(
        settings,
        lambda: connect(settings, role).billing(by=by, since=instant(start), until=instant(end), job=job),
        lambda files: files.billing(role, by=by, since_ms=start, until_ms=end, job=job),
    )


def moments(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Milliseconds of `--since` and `--until`; None where one is not said."""
    from storage.units import TimeError, parse_instant_ms

    now_ms = time.time_ns() // 1_000_000
    found: list[int | None] = []
    for name, text in (("--since", since), ("--until", until)):
        try:
            found.append(None if text is None else parse_instant_ms(text, now_ms=now_ms))
        except TimeError as error:
            raise usage(f"{name}: {error.message}", field=name, code=error.code) from None
    start, end = found
    if start is not None and end is not None and start >= end:
        raise usage("--since is not before --until", field="--since")
    return start, end


def instant(at_ms: int | None) -> str | None:
    """As the API takes a time."""
    from storage.units import format_instant

    return None if at_ms is None else format_instant(at_ms)


def _show(settings: Settings, lines: Sequence[dict[str, Any]], title: str | None = None) -> None:
    if not lines:
        print("Nothing was billed in this time.")
        return
    names = [
        name for name in dict.fromkeys(key for line in lines for key in line) if name in _SHOWN or name not in FIELDS
    ]
    names = [name for name in names if any(line.get(name) is not None for line in lines)]
    columns = [_SHOWN.get(name, Column(name, gives_way=9)) for name in names]
    rows = [[_cell(name, line.get(name)) for name in names] for line in lines]
    print_table(settings, columns, rows, title=title)
    charged = sum(line.get("charged_nanos") or 0 for line in lines)
    given = sum(line.get("refunded_nanos") or 0 for line in lines)
    granted = sum(line.get("granted_nanos") or 0 for line in lines)
    apart = f" ({usd(granted)} of it from granted credits)" if granted else ""
    print(f"charged {usd(charged)}{apart}, metered but not charged {usd(given)}")
    credited, returned, debited = (
        sum(line.get(name) or 0 for line in lines) for name in ("credited_nanos", "credited_granted_nanos", "debited_nanos")
    )
    if credited or debited:
        apart = f" ({usd(returned)} of it to granted credits)" if returned else ""
        more = f", debited {usd(debited)}" if debited else ""
        print(f"credited by disputes and corrections {usd(credited)}{apart}{more}: due {usd(charged + debited - credited)}")


def _show_disputes(settings: Settings, role: str) -> None:
    """What of it is in dispute now; the files of a market that is down say nothing of now."""
    from market.wire import MarketUnreachable, Refused

    try:
        found = connect(settings, role).disputes()
    except (MarketUnreachable, Refused, CliError):  # it is down, or of before there were disputes
        return
    still = [one for one in found if one["state"] == "open"]
    if still:
        amount, held = (sum(one[name] for one in still) for name in ("amount_nanos", "held_nanos"))
        print(f"in dispute {usd(amount)}, of which {usd(held)} are held: `torg dispute ls`")


def _show_forecasts(settings: Settings, role: str) -> None:
    """Of every open job what it will have cost, if its rounds to come cost what those so far did."""
    from market.wire import MarketUnreachable, Refused

    if role != "customer":
        return
    try:
        found = connect(settings, role).jobs()
    except (MarketUnreachable, Refused, CliError):  # the files of a market that is down say nothing of now
        return
    for one in found:
        nanos = one.get("forecast_nanos")
        if nanos is not None:
            over = ", more than its budget: it will pause" if nanos > one["budget_nanos"] else ""
            rounds = f"{one['rounds_committed']} of {one['rounds_planned']} rounds"
            print(printable(f"{one['id']} is at {rounds}; at this rate {usd(nanos)} at its end, of {usd(one['budget_nanos'])}{over}"))


_SHOWN = {
    "job": Column("job"), "provider": Column("provider"), "gpu": Column("gpu", gives_way=4), "day": Column("day"), "hour": Column("hour"),
    "tag": Column("tag"), "period_start": Column("from", gives_way=6), "period_end": Column("to", gives_way=7),
    "gpu_ms": Column("GPU time", right=True), "trained_ms": Column("trained", right=True, gives_way=5),
    "rounds": Column("rounds", right=True, gives_way=3),
    "unit_price_nanos_per_gpu_hour": Column("$/GPU-h", right=True, gives_way=2),
    "charged_nanos": Column("charged", right=True), "refunded_nanos": Column("refunded", right=True, gives_way=1),
}  # fmt: skip


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name.endswith(("_nanos", "_nanos_per_gpu_hour")):
        return usd(value)
    if name.endswith("_ms") and isinstance(value, int):
        return f"{value / 1000:,.1f} s"
    if name in ("period_start", "period_end"):
        from cli.verbs.wallet import moment

        return moment(value)
    return printable(str(value))


def _group(name: str) -> str:
    return name if name.startswith("tag:") and len(name) > 4 else _one_of(name, GROUPS, "--by")


def _one_of(name: str, allowed: Sequence[str], field: str) -> str:
    if name in allowed:
        return name
    import difflib

    near = difflib.get_close_matches(name, allowed, n=1)
    said = f"did you mean {near[0]}?" if near else f"one of {', '.join(allowed)}"
    raise usage(f"{field} {name!r} is not known", field=field, remedy=said)
