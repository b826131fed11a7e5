"""`torg retune`: another strategy, or other options of it, for a job that is not over."""

from typing import Annotated, Any

import typer

from cli.arguments import pair
from cli.errors import usage
from cli.output import document, printable
from cli.session import connect, new_id
from cli.settings import Settings
from cli.verbs.jobs import JobId
from storage.units import counted


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("retune")(retune)


def retune(
    ctx: typer.Context,
    job_id: JobId,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="the strategy from the next round on")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="may be given again")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change; nothing is sent")] = False,
    id: Annotated[str | None, typer.Option(help="name of this change: the same id twice is one change")] = None,
) -> None:
    """Change how a running job synchronises, from its next round boundary on."""
    settings: Settings = ctx.obj
    if strategy is None and not set:
        raise usage("nothing to change", field="--strategy", remedy="name --strategy NAME or --set OPTION=VALUE")
    options = read_options(set or [])
    client = connect(settings, "customer")
    before = client.job(job_id)["strategy"]
    after = _planned(before, strategy, options)
    changes = {name: [before.get(name), after.get(name)] for name in {**before, **after}}
    changes = {name: two for name, two in changes.items() if two[0] != two[1]}
    if dry_run:
        _show_plan(settings, job_id, after, changes)
        return
    answer = client.retune_job(job_id, id=id or new_id("tune"), strategy=strategy, options=options)
    if settings.as_json:
        document(answer)
        return
    print(
        f"{job_id} is at {answer['strategy']['name']} from its next round boundary on ({counted(answer['rounds_planned'], 'round')} in all)."
    )
    _print_changes(changes)


def read_options(texts: list[str]) -> dict[str, Any]:
    """`OPTION=VALUE` texts; values as YAML reads them, so that 0.7 is a number and true is true."""
    import yaml

    options: dict[str, Any] = {}
    for text in texts:
        name, value = pair(text, "--set")
        if name in options:
            raise usage(f"--set {name} is given twice", field="--set")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            options[name] = value
    return options


def _planned(before: dict[str, Any], name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The strategy after the change, as the market will decide it; a mistake is a usage error."""
    from market.checking import option_refusal
    from market.tuning import retuned
    from trainers.options import OptionError, strategy_options

    try:
        return retuned(strategy_options(before), name, options)
    except OptionError as error:
        found = option_refusal(error)
        raise usage(found.message, field=found.field, remedy=found.remedy, code="bad_option") from None


def _show_plan(settings: Settings, job_id: str, after: dict[str, Any], changes: dict[str, list[Any]]) -> None:
    if settings.as_json:
        document({"job": job_id, "strategy": after, "changes": changes})
        return
    print(f"{job_id} would change:" if changes else f"{job_id} has that already.")
    _print_changes(changes)


def _print_changes(changes: dict[str, list[Any]]) -> None:
    for name, (old, new) in changes.items():
        print(printable(f"  {name:<15}{_shown(old)} → {_shown(new)}"))


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)
