"""`torg provider lease-times` and `torg provider maintenance`: how long leases may last, and when a machine is not for rent."""

from typing import Annotated, Any

import typer

from cli.errors import usage
from cli.output import printable, tell
from cli.session import connect
from cli.settings import Settings
from cli.verbs import owner_options
from cli.verbs.offers import times_told
from cli.verbs.steering import ROLE, offers_of
from storage.units import TEN_YEARS_MS

NO_BOUND = "none"
Target = Annotated[str, typer.Argument(metavar="OFFER", help="offer id, or the name of a machine or of a provider for all its offers")]


def register(group: typer.Typer) -> None:
    """Add the verbs to `torg provider`."""
    group.command("lease-times")(lease_times)
    group.command("maintenance")(maintenance)


def lease_times(
    ctx: typer.Context,
    target: Target,
    least: Annotated[
        str | None, typer.Option("--min", metavar="TIME", help="jobs that are expected to be done sooner stay away; none lifts it")
    ] = None,
    most: Annotated[
        str | None, typer.Option("--max", metavar="TIME", help="a lease that has lasted as long ends, with notice; none lifts it")
    ] = None,
) -> None:
    """Bound how long leases to come last; those that run keep what they began with."""
    said = {"min_lease_ms": _bound(least, "--min"), "max_lease_ms": _bound(most, "--max")}
    shortest, longest = said.values()
    if isinstance(shortest, int) and isinstance(longest, int) and shortest > longest:
        raise usage(f"--min {least} is above --max {most}", field="--min", remedy="a shorter --min", code="out_of_range")
    times = {name: None if ms == NO_BOUND else ms for name, ms in said.items() if ms is not None}
    if not times:
        raise usage("neither --min nor --max says anything", field="--max", remedy="such as --max 8h")
    _set(ctx.obj, target, times)


def maintenance(
    ctx: typer.Context,
    target: Target,
    windows: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WINDOW…]", help="such as '02:00-06:00 sun', '2026-12-24T18:00/4h', in UTC or 'HOURS Europe/Berlin'"),
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="to the windows that are set; without, they are replaced")] = False,
    clear: Annotated[bool, typer.Option("--none", help="no window any more")] = False,
    zone: Annotated[str | None, typer.Option("--zone", help="of windows that name none; UTC without")] = None,
) -> None:
    """Say when a machine is not for rent; leases have left it before, with notice, and it comes back by itself."""
    settings: Settings = ctx.obj
    asked = owner_options.windows(windows, zone, "WINDOW")
    if clear == bool(asked):
        raise usage("say which windows, or --none", field="WINDOW", remedy="such as '02:00-06:00 sun'")
    if not add:
        _set(settings, target, {"maintenance": asked})
        return
    client = connect(settings, ROLE)
    known = {one["id"]: one["maintenance"] for one in client.offers()}
    changed = [
        client.set_lease_times(one, maintenance=list(dict.fromkeys([*known[one], *asked]))) for one in offers_of(settings, target)
    ]
    _tell(settings, target, changed)


def _bound(text: str | None, option: str) -> int | str | None:
    if text is None or text == NO_BOUND:
        return text
    found = owner_options.duration_ms(text, option)
    if not 0 < found <= TEN_YEARS_MS:
        raise usage(f"{option} {text} is out of range", field=option, remedy="above 0s, at most 3650d, or none", code="out_of_range")
    return found


def _set(settings: Settings, target: str, times: dict[str, Any]) -> None:
    client = connect(settings, ROLE)
    _tell(settings, target, [client.set_lease_times(one, **times) for one in offers_of(settings, target)])


def _tell(settings: Settings, target: str, changed: list[dict[str, Any]]) -> None:
    told = "; ".join(dict.fromkeys(said for one in changed for said in times_told(one)))
    tell(settings, changed, printable(f"{target}: {told or 'leases of any time, no maintenance'}."))
