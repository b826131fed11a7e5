"""`torg wallet`: deposit, payout, balance, history."""

from typing import Annotated, Any

import typer

from cli.arguments import usd, usd_nanos
from cli.output import Cell, Column, document, printable, show_list
from cli.session import connect, once
from cli.settings import Settings

Account = Annotated[
    str | None, typer.Option(help="member whose money it is; others than one's own need the operator's key")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="wallet", help="Money: deposit, payout, balance, history.", no_args_is_help=True)
    group.command("deposit")(deposit)
    group.command("payout")(payout)
    group.command("correct")(correct)
    group.command("balance")(balance)
    group.command("history")(history)
    app.add_typer(group)


def deposit(
    ctx: typer.Context,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="dollars, such as 20 or 0.50")],
    id: Annotated[str | None, typer.Option(help="name of this deposit: the same id twice counts once")] = None,
    account: Annotated[str, typer.Option(help="member who gets the money")] = "customer",
) -> None:
    """Put money into a wallet (operators only)."""
    settings: Settings = ctx.obj
    nanos = usd_nanos(amount, "AMOUNT")
    with once(id, "deposit") as made:
        answer = connect(settings, "operator").deposit(made, account, nanos)
    if settings.as_json:
        document(answer)
    else:
        print(
            f"{usd(answer['amount_nanos'])} into {account}'s wallet ({answer['id']}); it holds {usd(answer['balance_nanos'])}."
        )


def payout(
    ctx: typer.Context,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="dollars, such as 20 or 0.50")],
    account: Annotated[str, typer.Option(metavar="PROVIDER", help="provider whose earnings go out")],
    id: Annotated[str | None, typer.Option(help="name of this payout: the same id twice counts once")] = None,
) -> None:
    """Pay a provider's earnings out (operators only)."""
    settings: Settings = ctx.obj
    nanos = usd_nanos(amount, "AMOUNT")
    with once(id, "payout") as made:
        answer = connect(settings, "operator").payout(made, account, nanos)
    if settings.as_json:
        document(answer)
    else:
        left = usd(answer["balance_nanos"])
        print(f"{usd(answer['amount_nanos'])} paid out to {account} ({answer['id']}); earnings left {left}.")


def correct(
    ctx: typer.Context,
    transfer: Annotated[str, typer.Argument(metavar="TRANSFER", help="id of the deposit, payout, charge or fee")],
    reason: Annotated[str, typer.Option(help="why, for whoever reads the books")],
    amount: Annotated[str | None, typer.Option(help="dollars, if only a part is reversed")] = None,
    id: Annotated[str | None, typer.Option(help="name of this correction: the same id twice counts once")] = None,
) -> None:
    """Reverse a booked transfer with an entry of its own (operators only)."""
    settings: Settings = ctx.obj
    nanos = None if amount is None else usd_nanos(amount, "--amount")
    with once(id, "correction") as made:
        answer = connect(settings, "operator").correct(made, transfer, reason=reason, amount_nanos=nanos)
    if settings.as_json:
        document(answer)
    else:
        apart = f", {usd(answer['granted_nanos'])} of it to granted credits" if answer.get("granted_nanos") else ""
        print(printable(f"{usd(answer['amount_nanos'])} of {transfer} from {answer['debit']} to {answer['credit']}{apart} ({answer['id']}): {reason}"))


def balance(ctx: typer.Context, account: Account = None) -> None:
    """What an account holds."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator" if account else "customer").balance(account)
    if settings.as_json:
        document(answer)
        return
    print(f"{answer['account']}: wallet {usd(answer['wallet_nanos'])}, escrow {usd(answer['escrow_nanos'])}, "
          f"earnings {usd(answer['earnings_nanos'])}")  # fmt: skip
    if answer["grants"]:
        print(f"  bought {usd(answer['bought_nanos'])}, granted {usd(answer['granted_nanos'])}, "
              f"and the team's granted credits {usd(answer['team_granted_nanos'])}")  # fmt: skip
    for one in answer["grants"]:
        until = f"until {moment(one['expires_ms'])}" if one["expires_ms"] else "without an end"
        whose = f"team {one['team']}" if one["team"] else "own"
        print(printable(f"  {usd(one['left_nanos'])} {until} ({whose}): {one['reason']}"))
    for one in answer.get("limits", ()):
        print(_limit_line(one))


def _limit_line(one: dict[str, Any]) -> str:
    whose = f"team {one['name']}" if one["of"] == "team" else one["name"]
    told = f", {one['reached_percent']} % reached" if one["reached_percent"] else ""
    return (
        f"  {whose} may spend {usd(one['limit_nanos'])} a {one['period']}: {usd(one['left_nanos'])} left until {moment(one['ends_ms'])} "
        f"({usd(one['billed_nanos'])} billed, {usd(one['held_nanos'])} held{told})"
    )


def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="how many, newest first")] = 20,
    account: Account = None,
) -> None:
    """Transfers of an account, newest first."""
    settings: Settings = ctx.obj
    found = connect(settings, "operator" if account else "customer").transfers(limit=limit, account=account)
    show_list(settings, found, _COLUMNS, _row, empty="Nothing has come or gone.")


_COLUMNS = (
    Column("at"), Column("kind"), Column("amount", right=True), Column("balance", right=True), Column("job", gives_way=1),
    Column("id", gives_way=2),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[Cell]:
    return [
        moment(one["at"]), one["kind"], usd(one["amount_nanos"]), usd(one["balance_nanos"]), one["job"] or "–", str(one["id"])
    ]  # fmt: skip


def moment(at: object) -> str:
    """A time for people, UTC: from milliseconds since the epoch, or from ISO 8601."""
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int | float) else datetime.fromisoformat(str(at))
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
