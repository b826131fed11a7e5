"""`torg offers`: what is for rent now."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from cli.arguments import gpu_request, price_nanos, usd
from cli.errors import usage
from cli.output import Column, Styled, printable, show_list
from cli.session import connect
from cli.settings import Settings
from storage.units import format_duration, format_instant

Offer = dict[str, Any]
COLUMNS = (
    Column("offer", gives_way=2), Column("provider"), Column("name", gives_way=1), Column("gpu"), Column("free", right=True),
    Column("$/GPU-h", right=True), Column("vram", right=True, gives_way=5), Column("region", gives_way=4),
    Column("reliable", right=True, gives_way=3), Column("isolation", gives_way=6), Column("kind", gives_way=7),
    Column("state"),
)  # fmt: skip
_STATES = {"open": "green", "draining": "yellow", "paused": "yellow", "maintenance": "yellow", "offline": "dim"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("offers")(offers)


def offers(
    ctx: typer.Context,
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", help="such as 'vram>=24 reliability>0.98 region in \\[eu,us]'"),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="model, or model:count such as A100:8")] = None,
    max_price: Annotated[str | None, typer.Option(metavar="USD", help="highest price per GPU-hour")] = None,
    region: Annotated[list[str] | None, typer.Option(help="may be given more than once")] = None,
    order: Annotated[
        str, typer.Option(help="a field such as price, vram, reliability; -price turns it round")
    ] = "price",
    everything: Annotated[bool, typer.Option("--all", help="also offers that are paused, offline or not for you")] = False,
) -> None:
    """What is for rent now."""
    settings: Settings = ctx.obj
    wanted = gpu_request(gpu or "auto", "--gpu")
    model = None if wanted.gpu is None else wanted.gpu.lower()
    limit = price_nanos(max_price, "--max-price") if max_price else None
    keep, arrange = _filter(" ".join(filters or [])), _order(order)
    regions = {name.strip().lower() for given in region or [] for name in given.split(",")}
    found = [
        one
        for one in connect(settings, "customer").offers()
        if (everything or (one["state"] in ("open", "draining") and one.get("for_you", True)))
        and (model is None or one["gpu"].lower() == model)
        and (wanted.gpus is None or one["gpus_free"] >= wanted.gpus)
        and (limit is None or one["price_nanos_per_gpu_hour"] <= limit)
        and (not regions or str(one["region"]).lower() in regions)
        and keep(one)
    ]
    rest = "" if everything else " `torg offers --all` shows the rest."
    show_offers(settings, arrange(found), empty=f"No offer fits.{rest}")


def show_offers(settings: Settings, found: list[dict[str, Any]], *, empty: str) -> None:
    """The document, the table of these offers, or the sentence `empty`."""
    show_list(settings, found, COLUMNS, offer_row, empty=empty)
    for one in () if settings.as_json else found:
        if one.get("suspect_reason"):
            print(printable(f"{one['id']} is suspect: {one['suspect_reason']}"))
        if change := one.get("price_next"):
            asked = usd(change["price_nanos_per_gpu_hour"])
            print(printable(f"{one['name']} asks {asked} from {format_instant(change['at_ms'])} on"))
        if said := times_told(one):
            print(printable(f"{one['name']}: {', '.join(said)}"))


def times_told(offer: dict[str, Any]) -> list[str]:
    """What an offer says of how long leases last, and of maintenance, for people."""
    least, most, window = (offer.get(name) for name in ("min_lease_ms", "max_lease_ms", "maintenance_next"))
    found = [f"leases of at least {format_duration(least)}"] if least else []
    found += [f"leases of at most {format_duration(most)}"] if most else []
    if window:
        found.append(f"maintenance {format_instant(window['begin_ms'])} to {format_instant(window['end_ms'])}")
    return found


def offer_row(one: dict[str, Any]) -> list[str | Styled]:
    """One offer as the cells of `COLUMNS`."""
    return [
        one["id"], one["provider"], one.get("name") or "–", one["gpu"], f"{one['gpus_free']}/{one['gpus']}", usd(one["price_nanos_per_gpu_hour"]),
        f"{one['vram_gib']:g} GiB" if one["vram_gib"] else "–", one["region"] or "–",
        _reliable(one), one["isolation"],
        "interruptible" if one["interruptible"] else "firm", _state(one),
    ]  # fmt: skip


def _state(one: Offer) -> Styled:
    """`suspect` for an open one that the market doubts or does not hear of: it is matched to nobody."""
    return Styled("suspect", "red") if one["state"] == "open" and one.get("suspect") else Styled(one["state"], _STATES.get(one["state"], ""))


def _reliable(one: Offer) -> str:
    """`new` beside it: next to nothing is known, and this is what newcomers are given."""
    return f"{one['reliability']:.3f}" + (" new" if one.get("record", {}).get("newcomer") else "")


def _filter(text: str) -> Callable[[Offer], bool]:
    if not text.strip():
        return lambda one: True
    from market.filters import FilterError, compile_filter

    try:
        return compile_filter(text)
    except FilterError as error:
        raise usage(str(error), field="FILTER", code="bad_filter") from None


def _order(text: str) -> Callable[[list[Offer]], list[Offer]]:
    if text == "price":
        return lambda found: sorted(found, key=lambda one: (one["price_nanos_per_gpu_hour"], one["id"]))
    from market.filters import FilterError, order_offers

    # Both habits: -price as in SQL builders and ls, price- as in vast.ai.
    spelled = ",".join(part[1:] + "-" if part.startswith("-") else part for part in text.split(","))
    try:
        order_offers([], spelled)
    except FilterError as error:
        raise usage(f"--order {text!r}: {error}", field="--order", code="bad_order") from None
    return lambda found: [dict(one) for one in order_offers(found, spelled)]
