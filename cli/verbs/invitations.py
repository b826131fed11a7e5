"""`torg members invite`, `invites`, `uninvite`: codes that make members; `role`, `suspend`, `resume`: what members may do."""

from typing import Annotated, Any

import typer

from cli.errors import usage
from cli.output import Cell, Column, Styled, document, show_list, tell
from cli.session import ROLES, connect
from cli.settings import Settings

Member = Annotated[str, typer.Argument(metavar="NAME")]
_STYLES = {"open": "green", "revoked": "red", "expired": "yellow"}


def register(group: typer.Typer) -> None:
    """Add the verbs to `torg members`."""
    group.command("invite")(invite)
    group.command("invites")(invites)
    group.command("uninvite")(uninvite)
    group.command("role")(role)
    group.command("suspend")(suspend)
    group.command("resume")(resume)


def invite(
    ctx: typer.Context,
    role: Annotated[str, typer.Option(help="customer, provider or operator")] = "customer",
    team: Annotated[str | None, typer.Option(help="the team that whoever joins belongs to")] = None,
    name: Annotated[str | None, typer.Option(help="the name that whoever joins must take; default: its own choice")] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="for how long the code is good, up to 30d")] = "3d",
) -> None:
    """Print a code that makes one member, once. It is shown this once."""
    settings: Settings = ctx.obj
    _check_role(role)
    made = connect(settings, "operator").make_invite(role, team=team, member=name, for_ms=_duration_ms(expires))
    if settings.as_json:
        document(made)
        return
    from cli.verbs.wallet import moment

    whom = made["member"] or f"one {role}"
    print(f"For {whom}{' of team ' + team if team else ''}, until {moment(made['expires_ms'])} ({made['invite']}):")
    print(f"torg join {settings.market_url()} {made['code']}")


def _duration_ms(text: str) -> int:
    from storage.units import TimeError, parse_duration_ms

    try:
        return parse_duration_ms(text)
    except TimeError as error:
        raise usage(f"--expires {error.message}", field="--expires", code=error.code) from None


def invites(ctx: typer.Context) -> None:
    """Every invitation and what became of it; codes are nowhere."""
    settings: Settings = ctx.obj
    found = connect(settings, "operator").invites()
    show_list(settings, found, _COLUMNS, _row, empty="No invitations. `torg members invite` makes one.")


_COLUMNS = (
    Column("invitation"), Column("role"), Column("team", gives_way=2), Column("for", gives_way=3), Column("state"),
    Column("joined as"), Column("until", gives_way=1), Column("by", gives_way=4),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[Cell]:
    from cli.verbs.wallet import moment

    return [
        one["invite"], one["role"], one["team"] or "–", one["member"] or "–",
        Styled(one["state"], _STYLES.get(one["state"], "")), one["used_by"] or "–", moment(one["expires_ms"]), one["by"],
    ]  # fmt: skip


def uninvite(ctx: typer.Context, invitation: Annotated[str, typer.Argument(metavar="INVITATION")]) -> None:
    """Take an invitation back before it is used."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").revoke_invite(invitation)
    tell(settings, answer, f"The code of {invitation} opens nothing any more.")


def role(
    ctx: typer.Context,
    name: Member,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="customer, provider or operator")],
) -> None:
    """Give a member another role; refused while jobs or offers of the old one are open."""
    settings: Settings = ctx.obj
    _check_role(role)
    answer = connect(settings, "operator").set_role(name, role)
    tell(settings, answer, f"{name} is {'an' if role == 'operator' else 'a'} {role} now.")


def suspend(
    ctx: typer.Context,
    name: Member,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="why, for the record")] = "",
) -> None:
    """Begin nothing new of a member: no jobs, no leases on its machines. What runs goes on."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").suspend_member(name, reason=reason)
    tell(settings, answer, f"{name} is suspended: what runs goes on, nothing new begins. `torg members resume {name}` ends that.")


def resume(ctx: typer.Context, name: Member) -> None:
    """End a suspension: pending jobs and offers of the member count again."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").resume_member(name)
    tell(settings, answer, f"{name} is back.")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise usage(f"--role {role!r} is not known", field="--role", remedy=f"one of {', '.join(ROLES)}")
