"""`torg run`: one command on a rented machine, as if it ran here: its output, its exit code."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.arguments import gpu_request, pair, price_nanos, usd_nanos
from cli.errors import CliError, usage
from cli.output import document
from cli.session import connect_pooled
from cli.settings import Settings
from storage.units import MS_PER_HOUR, NANOS_PER_USD, TEN_YEARS_MS

if TYPE_CHECKING:
    from cli.jobfiles import Prepared
    from market.client import Market

HIGHEST_PRICE_NANOS = 1_000 * NANOS_PER_USD
ROOM = 2
"""How much above the cheapest offer of now the price may go, where nothing is said of it: others may be needed later."""
DEFAULT_HOURS = 1.0
LEAST_HOURS, MOST_HOURS = 0.001, TEN_YEARS_MS // MS_PER_HOUR
OPTIONS = {
    "`wait: true`": "`--wait`", "workers.gpus": "--gpu or --cpu", "workers.gpu": "--gpu", "workers.region": "--region",
    "workers.own": "--own", "workers.available_hours": "--available-hours", "workers.movable": "--movable",
    "limits.budget_usd": "--budget", "limits.max_usd_per_gpu_hour": "--max-price", "limits.deadline_hours": "--hours",
}  # fmt: skip
"""How a field of a job file, which is what the market speaks of, is said on this command line."""
FIELDS = OPTIONS | {
    "job file": "the command line", "name": "--name", "command": "COMMAND", "env": "--env", "secrets": "--secret", "workdir": "--workdir",
    "artifacts": "--artifacts", "timeout": "--timeout", "retries": "--retries", "requirements": "--requirements",
    "pyproject": "--pyproject", "tags": "--tag",
}  # fmt: skip
"""The same of fields whose names are plain words, for what is wrong with one of them."""


def register(app: typer.Typer) -> None:
    """Add the verb; what follows the command's name is the command's own."""
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


def run(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="such as: python train.py --epochs 10")],
    gpu: Annotated[str | None, typer.Option(metavar="MODEL[:N]", help="cards of one machine, such as A100:2")] = None,
    cpu: Annotated[int | None, typer.Option(metavar="N", min=1, help="cores of one machine; 1 without --gpu")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="processes, with --launch: each on a card or core of one machine")
    ] = None,
    launch: Annotated[
        Literal["torchrun"] | None, typer.Option(help="start the command once for each, as torchrun would")
    ] = None,
    max_price: Annotated[
        str | None, typer.Option(metavar="USD", help="per GPU-hour or core-hour; twice the cheapest of now")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="the job ends so long after it is submitted")] = None,
    budget: Annotated[str | None, typer.Option(metavar="USD", help="what --hours (or one hour) may cost")] = None,
    interruptible: Annotated[
        bool, typer.Option("--interruptible", help="cheaper, from what others leave free; whoever bids more may take the machine")
    ] = False,
    own: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="only on machines of this provider that are your own: free, no budget; and again for more"),
    ] = None,
    available_hours: Annotated[
        float | None, typer.Option(metavar="H", min=0.001, help="only on machines that are offered for that much longer")
    ] = None,
    movable: Annotated[
        bool, typer.Option("--movable", help="also on machines that it may outlast: it goes on elsewhere from its last save")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="also for hardware that nobody offers yet")] = False,
    name: Annotated[str | None, typer.Option(help="of the job; its script's or program's")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="a variable, and again for more")] = None,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="a secret (torg secret set) as a variable, and again for more")
    ] = None,
    workdir: Annotated[
        Path, typer.Option(metavar="DIR", help="its files go along, but what .gitignore leaves out")
    ] = Path(),
    artifacts: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="files to keep, for torg result; and again for more")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="such as 90s, 15m or 2h, for each try")] = None,
    retries: Annotated[int, typer.Option(min=0, help="further tries when it fails by itself")] = 0,
    network: Annotated[
        bool, typer.Option("--network", help="reach the internet, by HTTP_PROXY; on machines whose owners allow it")
    ] = False,
    requirements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="packages that its Python has beside the provider's, from wheels")
    ] = None,
    pyproject: Annotated[
        bool, typer.Option("--pyproject", help="the same, of pyproject.toml's dependencies in the work folder")
    ] = False,
    region: Annotated[list[str] | None, typer.Option(help="only there; and again for more")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="for bills; and again for more")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan; nothing is uploaded or submitted")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="submit it and leave")] = False,
    id: Annotated[str | None, typer.Option(help="name of this job: the same id twice is one job")] = None,
) -> None:
    """Run a command on a rented machine: plan, (y/N), its output live, its exit code."""
    from cli.command_view import follow_command
    from cli.verbs.submit import place

    settings: Settings = ctx.obj
    if hours is not None and not LEAST_HOURS <= hours <= MOST_HOURS:  # nor is nan
        raise usage(f"--hours {hours:g} is out of range", field="--hours", remedy=f"from {LEAST_HOURS:g} to {MOST_HOURS:,}, which is ten years")
    fields: dict[str, Any] = {
        "name": name or _short(command),
        "command": command,
        "env": dict(_variable(one) for one in env or ()),
        "secrets": secret or [],
        "network": network,
        "requirements": None if requirements is None else str(requirements.absolute()),
        "pyproject": str(workdir.absolute() / "pyproject.toml") if pyproject else None,
        "workdir": str(workdir.absolute()),
        "artifacts": artifacts or [],
        "timeout": timeout,
        "retries": retries,
        "launch": launch,
        "wait": wait,
        "workers": {
            **_machine(gpu, cpu, workers, launch), "region": region or [], "own": own or [], "available_hours": available_hours,
            "movable": movable,
        },
        "tags": dict(pair(one, "--tag") for one in tag or ()),
    }
    with connect_pooled(settings, "customer") as client:
        fields["limits"] = _free(max_price, budget, hours) if own else _limits(client, fields, max_price, budget, hours)
        fields["limits"] |= {"interruptible": interruptible}
        with _prepared(fields) as prepared:
            made = place(settings, client, prepared, id, yes=yes, dry_run=dry_run, options=OPTIONS)
    if not detach:
        raise typer.Exit(follow_command(settings, made["id"]))
    if settings.as_json:
        document(made)
    else:
        print(f"{made['id']} is {made['state']}.  torg logs {made['id']} -f")


def _prepared(fields: dict[str, Any]) -> "Prepared":
    """The job of these fields; what is wrong is said of the option that was typed."""
    from cli.jobfiles import prepare_fields
    from cli.verbs.submit import spoken

    try:
        return prepare_fields(fields)
    except CliError as wrong:
        field = wrong.field or ""
        option = next((FIELDS[name] for name in FIELDS if field == name or field.startswith(f"{name}.")), field)
        message = option + spoken(wrong.message.removeprefix(field), OPTIONS)
        raise replace(wrong, field=option, message=message, remedy=spoken(wrong.remedy, OPTIONS)) from None


def _short(command: Sequence[str]) -> str:
    """A job's name from its script's, or else its program's."""
    script = next((word.removesuffix(".py") for word in command[1:3] if word.endswith(".py")), command[0])
    last = script.rpartition("/")[2]
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in last)
    return kept.strip("._-")[:64] or "command"


def _variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`; a value may be empty and have blanks."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage(f"--env {text!r} is not NAME=VALUE", field="--env")
    return name, value


def _machine(gpu: str | None, cpu: int | None, workers: int | None, launch: str | None) -> dict[str, Any]:
    """The wanted machine, as `workers` of a job file."""
    if gpu is not None and cpu is not None:
        raise usage(
            "--gpu and --cpu stand together", field="--cpu", remedy="a machine with cards brings its cores along"
        )
    if launch is None and (workers or 1) > 1:
        raise usage(
            f"--workers {workers} without --launch", field="--workers",
            remedy="--launch torchrun starts the command once for each card or core of one machine",
        )  # fmt: skip
    if gpu is None:
        return {"gpu": ["cpu"], "gpus": _units(cpu, workers, "--cpu")}
    asked = gpu_request(gpu, "--gpu")
    if asked.gpu is None:
        raise usage(f"--gpu {gpu!r} names no model", field="--gpu", remedy="such as A100 or RTX4090:2; see torg offers")
    return {"gpu": [asked.gpu], "gpus": _units(asked.gpus if ":" in gpu else None, workers, "--gpu")}


def _units(asked: int | None, workers: int | None, option: str) -> int:
    """Cards or cores of the machine: each process of --workers has one."""
    if asked is not None and workers is not None and asked != workers:
        raise usage(
            f"{option} wants {asked} and --workers {workers}", field="--workers", remedy="each process has one: leave either out"
        )
    return asked or workers or 1


def _free(max_price: str | None, budget: str | None, hours: float | None) -> dict[str, Any]:
    """Of a job on its customer's own machines: nothing to pay, so nothing to hold."""
    for option, value in (("--max-price", max_price), ("--budget", budget)):
        if value is not None:
            raise usage(f"{option} and --own stand together", field=option, remedy="machines of your own cost nothing")
    return {} if hours is None else {"deadline_hours": hours}


def _limits(
    client: "Market", fields: dict[str, Any], max_price: str | None, budget: str | None, hours: float | None
) -> dict[str, Any]:
    """Price, budget and deadline as a job file says them; what is not said follows from the offers of now."""
    price = price_nanos(max_price, "--max-price") if max_price is not None else _usual_price(client, fields)
    paid_hours = Decimal(str(hours if hours is not None else DEFAULT_HOURS))
    if budget is not None:
        budget_nanos = usd_nanos(budget, "--budget")
    else:
        budget_nanos = max(1, int(price * fields["workers"]["gpus"] * paid_hours))
    told: dict[str, Any] = {"max_usd_per_gpu_hour": _usd(price), "budget_usd": _usd(budget_nanos)}
    return told if hours is None else {**told, "deadline_hours": hours}


def _usual_price(client: "Market", fields: dict[str, Any]) -> int:
    """Twice what the cheapest machine of this kind that is free now costs."""
    from cli.verbs.submit import spoken

    limits = {"max_usd_per_gpu_hour": _usd(HIGHEST_PRICE_NANOS), "budget_usd": "1"}
    with _prepared({**fields, "workdir": None, "limits": limits}) as asked:
        plan = spoken(client.quote(asked.spec), OPTIONS)
    cheapest = plan.get("price_nanos_per_gpu_hour")
    if cheapest == 0:
        raise usage(
            "no price is known: the machine that would be taken is your own and costs nothing", field="--max-price",
            remedy="--own PROVIDER runs there alone; or say the highest price elsewhere, such as --max-price 0.50",
        )  # fmt: skip
    if cheapest is None:
        why = plan.get("detail") or "nobody offers such a machine now"
        raise usage(
            f"no price is known: {why}", field="--max-price", remedy="say the highest price, such as --max-price 0.50"
        )
    return min(HIGHEST_PRICE_NANOS, ROOM * int(cheapest))


def _usd(nanos: int) -> str:
    """An amount as a job file takes it, exact."""
    return f"{nanos // NANOS_PER_USD}.{nanos % NANOS_PER_USD:09d}"
