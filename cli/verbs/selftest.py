"""`torg provider selftest`: try to break out of this machine's sandbox, and say what held."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CliError, Exit, usage
from cli.output import Cell, Column, Styled, console, document, log, print_table
from cli.settings import Settings

if TYPE_CHECKING:
    from trainers.selftest.battery import Finding, Result

_STYLES = {"held": "green", "escaped": "bold red", "not applicable": "dim"}
_COLUMNS = (
    Column("attempt"), Column("what it is after", gives_way=3), Column("", gives_way=1), Column("stopped by", gives_way=4),
    Column("outside", gives_way=5),
)  # fmt: skip
_LONGEST_AIM, _LONGEST_STOP, _LONGEST_CONTROL = 27, 18, 8


def selftest(
    ctx: typer.Context,
    isolation: Annotated[
        str, typer.Option(help="auto, sandbox (needs bubblewrap) or process; auto takes what this machine can do")
    ] = "auto",
    name: Annotated[
        str | None, typer.Option(help="of this machine, as for `torg provide`, whose offer shows the result")
    ] = None,
) -> None:
    """Some eighty attempts to break out of this machine's sandbox; exit 1 when one of them got out."""
    settings: Settings = ctx.obj
    from trainers.sandbox import isolation_level

    can = isolation_level()
    if isolation not in ("auto", "sandbox", "process"):
        raise usage(f"--isolation {isolation!r} is none", field="--isolation", remedy="auto, sandbox or process")
    if isolation == "sandbox" and can == "process":
        raise usage(
            "bubblewrap does not run here", field="--isolation", remedy="install bubblewrap, or --isolation process"
        )
    result = _run(settings, can if isolation == "auto" else isolation)
    told = _report(result)
    if result.isolation == "sandbox":
        _keep(settings, name, told)
    if settings.as_json:
        document({"report": told, "attempts": [asdict(one) for one in result.findings]})
    else:
        print_table(settings, _COLUMNS, [_row(one) for one in result.findings])
        print(_summary(told))
    if told["escaped"]:
        raise typer.Exit(Exit.FAILED)


def _run(settings: Settings, isolation: Any) -> "Result":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from trainers.selftest.attempts import ATTEMPTS
    from trainers.selftest.battery import NotMade, run

    columns = (TextColumn("attempts to break out"), BarColumn(), MofNCompleteColumn())
    screen = console(settings, stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task = bar.add_task("", total=sum(len(one.roles) for one in ATTEMPTS))
        try:
            return run(isolation, progress=lambda done: bar.update(task, completed=done))
        except NotMade as failed:
            raise CliError("selftest_failed", f"the self-test could not be made: {failed}") from None


def _report(result: "Result") -> dict[str, Any]:
    import time

    from market.actors.host_config import torg_version
    from trainers.selftest.report import machine, report

    return report(result, machine(torg_version()), int(time.time() * 1000))


def _keep(settings: Settings, name: str | None, told: dict[str, Any]) -> None:
    """Signed, for the offers of this provider."""
    from cli.verbs.provide import provider_home
    from market.selftest_files import keep

    try:
        keep(provider_home(settings, name), told)
    except ImportError as error:
        log(f"not signed, so no offer shows it: {error}")


def _row(one: "Finding") -> list[Cell]:
    outside = "works" if one.outside.startswith("got it") else one.outside
    inside = " / ".join(dict.fromkeys(one.inside.values()))
    return [
        one.name,
        _short(one.tries, _LONGEST_AIM),
        Styled(one.verdict, _STYLES[one.verdict]),
        _short(inside, _LONGEST_STOP),
        _short(outside, _LONGEST_CONTROL),
    ]


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _summary(told: dict[str, Any]) -> str:
    facts, groups = told["machine"], ", ".join(told["groups"]) or "nothing (not writable here)"
    tried = told["held"] + len(told["escaped"])
    tools = f"bubblewrap {facts['bubblewrap'] or 'none'}, Landlock {facts['landlock'] or 'none'}"
    parts = [
        f"isolation {told['isolation']}: {told['held']} of {tried} attempts held, {len(told['not_applicable'])} do not apply here.",
        f"Kernel {facts['kernel']}, {tools}, cgroups bound {groups}.",
    ]
    if told["escaped"]:
        parts.append(f"Got out: {', '.join(told['escaped'])}. docs/SECURITY.md says what each of them means.")
    return "\n".join(parts)
