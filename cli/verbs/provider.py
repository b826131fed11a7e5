"""`torg provider`: steer offers that are placed, and shut a provider out."""

from typing import Annotated, Any

import typer

from cli.arguments import price_nanos, usd
from cli.output import printable, tell
from cli.session import connect
from cli.settings import Settings
from cli.verbs import lease_times, reclaim
from cli.verbs.offers import show_offers
from cli.verbs.selftest import selftest
from cli.verbs.steering import ROLE, offers_of
from storage.units import format_instant

Target = Annotated[str, typer.Argument(metavar="OFFER", help="offer id, or the name of a machine or of a provider for all its offers")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(
        name="provider",
        help="Offers that are placed: list, status, reclaim, release, drain, relist, withdraw, price, lease-times, maintenance, revoke; test this sandbox.",
        no_args_is_help=True,
    )
    group.command("ls")(ls)
    reclaim.register(group)
    group.command("drain")(drain)
    group.command("relist")(relist)
    group.command("withdraw")(withdraw)
    group.command("price")(price)
    lease_times.register(group)
    group.command("revoke")(revoke)
    group.command("selftest")(selftest)
    app.add_typer(group)


def ls(ctx: typer.Context) -> None:
    """Every offer of this market that is not withdrawn, whatever its state."""
    settings: Settings = ctx.obj
    found = sorted(connect(settings, ROLE).offers(), key=lambda one: (one["provider"], one["id"]))
    show_offers(settings, found, empty="No offers here. `torg provide` makes one.")
    if not settings.as_json:
        for one in found:
            if said := _held(one):
                print(printable(said))


def _held(one: dict[str, Any]) -> str:
    """Why an offer, or a part of it, is not for rent."""
    held = one.get("held") or {"gpus": 0}
    if not held["gpus"]:
        return ""
    until = "" if held["until_ms"] is None else f", until {format_instant(held['until_ms'])}"
    part = "" if held["gpus"] >= one["gpus"] else f" {held['gpus']} of {one['gpus']}"
    return f"{one['name']} paused{part}: {held['why'] or held['reason']}{until}"


def drain(ctx: typer.Context, target: Target) -> None:
    """No new leases; the running ones end in peace."""
    _change(ctx.obj, target, "drain", "drains: no new leases")


def relist(ctx: typer.Context, target: Target) -> None:
    """Open an offer again that was drained and whose provider still runs."""
    _change(ctx.obj, target, "relist", "is open again")


def withdraw(ctx: typer.Context, target: Target) -> None:
    """Take an offer off the market."""
    _change(ctx.obj, target, "withdraw", "is withdrawn")


def price(
    ctx: typer.Context,
    target: Target,
    usd_per_gpu_hour: Annotated[str, typer.Argument(metavar="USD", help="per GPU-hour, for new leases only")],
) -> None:
    """Ask another price."""
    settings: Settings = ctx.obj
    nanos = price_nanos(usd_per_gpu_hour, "USD")
    client = connect(settings, ROLE)
    changed = [client.set_price(one, nanos) for one in offers_of(settings, target)]
    when = "outside the hours that have a price of their own" if any(one.get("prices") for one in changed) else "from now on"
    tell(settings, changed, f"{target} asks {usd(nanos)} per GPU-hour {when}.")


def revoke(
    ctx: typer.Context, member: Annotated[str, typer.Argument(help="provider (or other member) whose key ends")]
) -> None:
    """Shut a member out: its key is worth nothing from now on (operators only)."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").revoke_member(member)
    tell(settings, answer, f"{member} is revoked.")


def _change(settings: Settings, target: str, action: str, said: str) -> None:
    client = connect(settings, ROLE)
    changed = [client.change_offer(one, action) for one in offers_of(settings, target)]  # type: ignore[arg-type]
    tell(settings, changed, f"{target} {said}.")
