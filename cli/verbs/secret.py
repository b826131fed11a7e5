"""`torg secret`: values that jobs get as variables and nobody sees again."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CliError, usage
from cli.output import Cell, Column, show_list, tell
from cli.session import connect
from cli.settings import Settings
from cli.verbs.wallet import moment

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="of the variable that a job finds it under, such as HF_TOKEN")
]
MOST_CHARACTERS = 32_768


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(
        name="secret",
        help="Secrets for jobs: set, ls, rm; a new key for all of them: rekey. Values are never shown.",
        no_args_is_help=True,
    )
    group.command("set")(set_)
    group.command("ls")(ls)
    group.command("rm")(rm)
    group.command("rekey")(rekey)
    app.add_typer(group)


def set_(
    ctx: typer.Context,
    name: Name,
    from_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="its text, without the end of its last line")
    ] = None,
) -> None:
    """Set a secret: from a file, from standard input, or typed without being shown."""
    settings: Settings = ctx.obj
    answer = connect(settings, "customer").set_secret(name, _value(name, from_file))
    tell(settings, answer, f"{name} is set. A job that says `secrets: [{name}]` finds it in ${name}.")


def ls(ctx: typer.Context) -> None:
    """Names, when each was set, which open jobs name it."""
    settings: Settings = ctx.obj
    found = connect(settings, "customer").secrets()
    columns = (Column("name"), Column("set"), Column("used by", gives_way=1))
    show_list(settings, found, columns, _row, empty="No secrets. `torg secret set NAME` keeps one.")


def _row(one: dict[str, Any]) -> list[Cell]:
    return [one["name"], moment(one["set_ms"]), ", ".join(one["used_by"]) or "–"]


def rm(ctx: typer.Context, name: Name) -> None:
    """Forget a secret; refused while an open job names it."""
    settings: Settings = ctx.obj
    answer = connect(settings, "customer").remove_secret(name)
    tell(settings, answer, f"{name} is forgotten.")


def rekey(ctx: typer.Context) -> None:
    """Operators: seal everybody's secrets with a new key, and forget the old one. Jobs go on meanwhile; so may a call that
    was cut off."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").rekey_secrets()
    count = answer["sealed"]
    tell(settings, answer, f"A new key seals {count} secret{'' if count == 1 else 's'}; the old one is gone.")
    if answer["damaged"]:
        whose = ", ".join(answer["damaged"][:5])
        raise CliError("secrets_damaged", f"no key opens {len(answer['damaged'])}: {whose}", None, "their owners set them again")


def _value(name: str, from_file: Path | None) -> str:
    if from_file is not None:
        try:
            value = from_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise usage(f"--from-file {from_file} cannot be read: {error}", field="--from-file") from None
    elif sys.stdin.isatty():
        value = str(typer.prompt(f"value of {name}", hide_input=True))
    else:
        value = sys.stdin.read(MOST_CHARACTERS + 2)
    value = value.removesuffix("\n").removesuffix("\r")
    if not 1 <= len(value) <= MOST_CHARACTERS or "\0" in value:
        allowed = f"1 to {MOST_CHARACTERS:,} characters, none of them NUL"
        raise usage(f"the value of {name} has {len(value):,} characters", field="value", remedy=allowed)
    return value
