"""`torg dispute`: follow a job's meters, object to a charge, see and decide objections."""

import secrets
from typing import Annotated, Any

import typer

from cli.arguments import usd, usd_nanos
from cli.output import Cell, Column, document, printable, show_list
from cli.session import connect
from cli.settings import Settings
from storage.units import counted

Role = Annotated[str, typer.Option(help="customer, provider or operator")]
Reason = Annotated[str, typer.Option(help="one sentence; everybody whom it touches reads it")]
Id = Annotated[str, typer.Argument(metavar="DISPUTE")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(name="dispute", help="Object to a charge, and decide objections.", no_args_is_help=True)
    for name, verb in (("open", open_), ("ls", ls), ("show", show), ("readings", readings), ("uphold", uphold), ("reject", reject)):
        group.command(name)(verb)
    app.add_typer(group)


def open_(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB")],
    lease: Annotated[str, typer.Argument(metavar="LEASE")],
    reason: Reason,
    amount: Annotated[str | None, typer.Option(metavar="USD", help="default: all that the lease was charged")] = None,
    evidence: Annotated[str, typer.Option(metavar="TEXT", help="what you saw; the record's own readings are added")] = "",
    id: Annotated[str | None, typer.Option(help="the same id again is the same objection")] = None,
) -> None:
    """Object to what a lease of your job was charged; its provider cannot be paid that out meanwhile."""
    nanos = None if amount is None else usd_nanos(amount, "--amount")
    name = id or f"dispute-{secrets.token_hex(4)}"
    answer = connect(ctx.obj, "customer").open_dispute(name, job=job, lease=lease, reason=reason, amount_nanos=nanos, evidence=evidence)
    _told(ctx.obj, answer)


def ls(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Option(help="of one job only")] = None,
    role: Role = "customer",
) -> None:
    """Disputes that touch you."""
    found = connect(ctx.obj, role).disputes(job=job)
    show_list(ctx.obj, found, _COLUMNS, _row, empty="Nothing is in dispute.")


def show(ctx: typer.Context, dispute: Id, role: Role = "customer") -> None:
    """One dispute with its evidence."""
    _told(ctx.obj, connect(ctx.obj, role).dispute(dispute))


def readings(ctx: typer.Context, job: Annotated[str, typer.Argument(metavar="JOB")]) -> None:
    """What worker and run say of each lease's time, and whether the worker signed it."""
    leases = connect(ctx.obj, "customer").job(job)["leases"]
    show_list(ctx.obj, [_reading(one) for one in leases], _READINGS, _reading_row, empty="No lease was granted yet.")


def uphold(
    ctx: typer.Context,
    dispute: Id,
    reason: Reason,
    amount: Annotated[str | None, typer.Option(metavar="USD", help="a part of it; default: all")] = None,
) -> None:
    """Decide for the customer (operators): what was charged goes back."""
    nanos = None if amount is None else usd_nanos(amount, "--amount")
    _told(ctx.obj, connect(ctx.obj, "operator").decide_dispute(dispute, verdict="upheld", reason=reason, amount_nanos=nanos))


def reject(ctx: typer.Context, dispute: Id, reason: Reason) -> None:
    """Decide for the provider (operators)."""
    _told(ctx.obj, connect(ctx.obj, "operator").decide_dispute(dispute, verdict="rejected", reason=reason))


def _told(settings: Settings, one: dict[str, Any]) -> None:
    from cli.verbs.wallet import moment

    if settings.as_json:
        document(one)
        return
    print(printable(f"{one['id']}: {one['state']}, {usd(one['amount_nanos'])} of {one['lease']} ({one['provider']}): {one['reason']}"))
    if one["state"] == "open":
        where = "in escrow" if one["about"] == "meter" else f"of {one['provider']}'s earnings"
        print(f"  held: {usd(one['held_nanos'])} {where}; an operator decides until {moment(one['until_ms'])}")
    else:
        apart = f" ({usd(one['granted_nanos'])} of it to granted credits)" if one.get("granted_nanos") else ""
        print(printable(f"  {one['decided_by']} on {moment(one['closed_ms'])}, {usd(one['decided_nanos'])} to the customer{apart}: {one['decision']}"))
    seen = one["evidence"]
    print(f"  the record: {seen['metered_ms'] / 1000:,.1f} s metered, {seen['claimed_ms'] / 1000:,.1f} s by its worker, "
          f"{counted(seen['rounds'], 'round')}, {usd(seen['charged_nanos'])} charged")  # fmt: skip
    if seen.get("words"):
        print(printable(f"  {one['by']}: {seen['words']}"))


_COLUMNS = (
    Column("dispute"), Column("state"), Column("about", gives_way=3), Column("lease"), Column("provider", gives_way=2),
    Column("amount", right=True), Column("reason", gives_way=1),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[Cell]:
    return [
        one["id"], one["state"], one["about"], one["lease"], one["provider"], usd(one["amount_nanos"]), printable(one["reason"][:60])
    ]  # fmt: skip


def _reading(lease: dict[str, Any]) -> dict[str, Any]:
    """What a lease's record says; `signature`: good, wrong, none, or unchecked without `cryptography`."""
    from importlib.util import find_spec

    from storage.meter_readings import is_signed

    signed, word = lease["signed"], "none"
    if signed is not None:
        word = "unchecked"
        if find_spec("cryptography") is not None:
            right = is_signed(lease["meter_key"], lease["id"], lease["epoch"], signed, signed["signature"])
            word = "good" if right else "wrong"
    names = ("id", "provider", "metered_ms", "questioned_ms", "questioned_nanos", "charged_ms", "charged_nanos", "rounds")
    told = {name: lease[name] for name in names}
    return {**told, "signed_ms": signed and signed["leased_ms"], "run_ms": signed and signed["run_ms"], "signature": word}


_READINGS = (
    Column("lease"), Column("provider", gives_way=1), Column("agreed", right=True), Column("signed", right=True),
    Column("run saw", right=True, gives_way=2), Column("in question", right=True), Column("charged", right=True), Column("signature"),
)  # fmt: skip


def _reading_row(one: dict[str, Any]) -> list[Cell]:
    times = [one[name] for name in ("metered_ms", "signed_ms", "run_ms", "questioned_ms")]
    return [
        one["id"], one["provider"], *("–" if ms is None else f"{ms / 1000:,.1f} s" for ms in times), usd(one["charged_nanos"]),
        one["signature"],
    ]  # fmt: skip
