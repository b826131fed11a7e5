"""`torg teams`: labs that share a market, what each may have, what each has used."""

from typing import Annotated, Any

import typer

from cli.errors import usage
from cli.output import Cell, Column, Styled, document, show_list, tell
from cli.session import connect
from cli.settings import Settings
from cli.verbs.members import Expires, PerDay, PerMonth, Reason
from storage.units import counted

Team = Annotated[str, typer.Argument(metavar="TEAM")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="teams", help="Labs that share the machines (operators only).", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("set")(set_)
    group.command("move")(move)
    group.command("grant")(grant)
    group.command("rm")(remove)
    app.add_typer(group)


def ls(ctx: typer.Context) -> None:
    """Every team: its weight, what it uses and has used, its share and its quota."""
    settings: Settings = ctx.obj
    found = connect(settings, "operator").teams()
    show_list(settings, found, _COLUMNS, _row, empty="No teams. `torg teams set NAME` makes one.")


_COLUMNS = (
    Column("team"), Column("members", right=True, gives_way=2), Column("weight", right=True), Column("share", right=True),
    Column("used", right=True), Column("units", right=True), Column("quota", right=True),
    Column("open jobs", right=True, gives_way=1), Column("limits", gives_way=3),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[Cell]:
    from cli.granting import limited

    over = one["used_ppm"] > one["share_ppm"]
    used = f"{one['used_ppm'] / 10_000:.0f} %"
    return [
        one["team"] or "(no team)",
        str("–" if one["members"] is None else one["members"]),
        str(one["weight"]),
        f"{one['share_ppm'] / 10_000:.0f} %",
        Styled(used, "yellow") if over else used,
        str(one["units"]),
        str(one["quota_units"] or "–"),
        str(one["open_jobs"]),
        limited(one["limits"]),
    ]


def set_(
    ctx: typer.Context,
    team: Team,
    weight: Annotated[int | None, typer.Option(help="its part of the machines, against the other teams' weights")] = None,
    quota: Annotated[str | None, typer.Option(metavar="UNITS", help="most units in use at once, or none")] = None,
    per_day: PerDay = None,
    per_month: PerMonth = None,
) -> None:
    """Make a team, or change its weight, quota or limits; what is not named stays."""
    settings: Settings = ctx.obj
    from cli.granting import limited, limits_asked

    asked, units = limits_asked(per_day, per_month), _units(quota)
    market = connect(settings, "operator")
    answer = market.set_team(team, weight=weight, quota_units=units)
    if asked:
        answer["limits"] = market.set_limits(asked, team=team)
    if settings.as_json:
        document(answer)
        return
    most = f"at most {counted(answer['quota_units'], 'unit')} at once" if answer["quota_units"] else "no quota"
    spends = f", {limited(answer['limits'])}" if answer["limits"] else ""
    print(f"Team {team}: weight {answer['weight']}, {most}{spends}.")


def _units(quota: str | None) -> int | None:
    if quota is None:
        return None
    if quota == "none":
        return 0
    if not quota.isdecimal() or not quota.isascii() or int(quota) == 0:
        raise usage(f"--quota {quota!r} is no number of units", field="--quota", remedy="1 or more, or none")
    return int(quota)


def move(
    ctx: typer.Context,
    member: Annotated[str, typer.Argument(metavar="MEMBER")],
    team: Annotated[str, typer.Argument(metavar="TEAM", help="a team, or none")],
) -> None:
    """Put a member into a team, out of the one of before; what runs stays with that one."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").move_member(member, None if team == "none" else team)
    tell(settings, answer, f"{member} belongs to {'no team' if answer['team'] is None else 'team ' + answer['team']}.")


def grant(
    ctx: typer.Context,
    team: Team,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="dollars, such as 100")],
    reason: Reason,
    expires: Expires = None,
    id: Annotated[str | None, typer.Option(help="name of this grant: the same id twice counts once")] = None,
) -> None:
    """Give a team credit that each of its members may spend."""
    from cli.granting import give

    give(ctx.obj, amount, reason, expires, id, team=team)


def remove(ctx: typer.Context, team: Team) -> None:
    """Forget a team that has no members."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").remove_team(team)
    tell(settings, answer, f"There is no team {team} any more.")
