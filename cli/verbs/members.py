"""`torg members`: who is in the market, who comes in, whose key ends."""

from typing import Annotated, Any

import typer

from cli.errors import refused, usage
from cli.output import Cell, Column, Styled, document, show_list, tell
from cli.session import ROLES, connect
from cli.settings import Settings
from cli.verbs import invitations
from market.wire import Refused

Member = Annotated[str, typer.Argument(metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="members", help="Who is in the market (operators only).", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("add")(add)
    group.command("grant")(grant)
    group.command("limit")(limit)
    group.command("rotate")(rotate)
    group.command("revoke")(revoke)
    invitations.register(group)
    app.add_typer(group)


def ls(ctx: typer.Context) -> None:
    """Everybody who ever was a member, in the order in which they came."""
    settings: Settings = ctx.obj
    show_list(settings, connect(settings, "operator").members(), _COLUMNS, _row, empty="No members.")


_COLUMNS = (
    Column("member"), Column("role"), Column("key"), Column("team", gives_way=1), Column("limits", gives_way=2),
    Column("added", gives_way=3),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[Cell]:
    from cli.granting import limited
    from cli.verbs.wallet import moment

    return [
        one["member"], one["role"], _standing(one), one["team"] or "–", limited(one["limits"]), moment(one["added_ms"])
    ]  # fmt: skip


def _standing(one: dict[str, Any]) -> Styled:
    if one["revoked"]:
        return Styled("revoked", "red")
    return Styled("suspended", "yellow") if one["suspended"] else Styled("valid")


def add(
    ctx: typer.Context,
    name: Member,
    role: Annotated[str, typer.Option(help="customer, provider or operator")] = "customer",
) -> None:
    """Make a member, or give one whose key was revoked a new one. The key is shown this once."""
    settings: Settings = ctx.obj
    if role not in ROLES:
        raise usage(f"--role {role!r} is not known", field="--role", remedy=f"one of {', '.join(ROLES)}")
    try:
        made = connect(settings, "operator").add_member(name, role)  # type: ignore[arg-type]
    except Refused as error:
        if error.code != "conflict":
            raise
        remedy = f"`torg members rotate {name}` gives it a new key, `torg members role` another role"
        raise refused("conflict", f"{name} is a member already", field="NAME", remedy=remedy) from None
    if settings.as_json:
        document(made)
        return
    print(f"{made['member']} is a {made['role']}. Its key, shown this once: {made['key']}")
    print(f"With it: TORG_URL={settings.market_url()} TORG_KEY=… torg offers")


Reason = Annotated[str, typer.Option(metavar="TEXT", help="why, for the record and for who gets it")]
Expires = Annotated[str | None, typer.Option(metavar="WHEN", help="2026-12-31, or 30d from now; default: never")]


PerDay = Annotated[
    str | None, typer.Option("--limit-per-day", metavar="USD", help="most to spend in a day (UTC), or none")
]
PerMonth = Annotated[
    str | None, typer.Option("--limit-per-month", metavar="USD", help="most to spend in a month (UTC), or none")
]


def limit(ctx: typer.Context, name: Member, per_day: PerDay = None, per_month: PerMonth = None) -> None:
    """Limit what a member may spend; what is not named stays. `torg teams set` limits a team."""
    from cli.granting import limited, limits_asked

    settings: Settings = ctx.obj
    asked = limits_asked(per_day, per_month)
    if not asked:
        raise usage("no limit is named", field="--limit-per-month", remedy="dollars, or none")
    answer = connect(settings, "operator").set_limits(asked, member=name)
    tell(settings, answer, f"{name}: {limited(answer)}.")


def grant(
    ctx: typer.Context,
    name: Member,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="dollars, such as 100")],
    reason: Reason,
    expires: Expires = None,
    id: Annotated[str | None, typer.Option(help="name of this grant: the same id twice counts once")] = None,
) -> None:
    """Give a member credit: spent before bought money, never paid out. `torg teams grant` gives it to a team."""
    from cli.granting import give

    give(ctx.obj, amount, reason, expires, id, member=name)


def rotate(
    ctx: typer.Context,
    name: Member,
    grace: Annotated[
        int, typer.Option(min=0, max=43_200, metavar="MINUTES", help="how long the old key still works")
    ] = 60,
) -> None:
    """Give a member another key, shown this once; the old one works a while on."""
    settings: Settings = ctx.obj
    from market.homes import LOCAL_MEMBERS, Home, write_json

    answer = connect(settings, "operator").rotate_key(name, grace_ms=60_000 * grace)
    home = Home(settings.home)
    if name in LOCAL_MEMBERS and not settings.url and name in (keys := home.read_keys()):
        write_json(home.keys_file, {**keys, name: answer["key"]}, mode=0o600)
    if settings.as_json:
        document(answer)
        return
    from cli.verbs.wallet import moment

    print(f"The new key of {name}, shown this once: {answer['key']}")
    print(f"The old one works until {moment(answer['old_until_ms'])}.")


def revoke(ctx: typer.Context, name: Member) -> None:
    """End a member's key at once; a provider's offers are withdrawn and its leases end."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").revoke_member(name)
    tell(settings, answer, f"The key of {name} is revoked. `torg members add {name} --role {answer['role']}` gives it a new one.")
