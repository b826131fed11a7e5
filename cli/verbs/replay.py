"""`torg replay`: clearings made again from the journal of a home, without its market."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli.arguments import exact_usd, usd
from cli.errors import Exit, refused, usage
from cli.output import Column, document, print_table, show_list
from cli.settings import Settings
from cli.waits_view import show_waits
from storage.units import format_duration, format_instant


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("replay")(replay)


def replay(
    ctx: typer.Context,
    auction: Annotated[str, typer.Argument(metavar="AUCTION", help="number of a clearing, or `all`, or `last`")] = "all",
) -> None:
    """Make a clearing again from the record: the same matches and prices to the bit, or what differs.

    For whoever has the market's files (the operator); the market may run or not. Shows the welfare, how much any clearing
    could have reached, and what the bills would be under the other price rules. Exit code 1 if anything differs.
    """
    settings: Settings = ctx.obj
    from market.outcomes import Refusal
    from market.replaying import last_number
    from market.replaying import replay as again

    records = _records(settings)
    if auction == "last":
        number: int | None = last_number(records)
    elif auction == "all":
        number = None
    elif auction.isdigit():
        number = int(auction)
    else:
        raise usage(f"{auction!r} is no number of a clearing", field="AUCTION", remedy="a number, `all` or `last`")
    found = again(records, number)
    if isinstance(found, Refusal):
        raise refused(found.code, found.message, field=found.field, remedy=found.remedy)
    if settings.as_json:
        document(found if number is None else found[0])
    elif number is None:
        show_list(settings, found, _COLUMNS, _row, empty="No clearings yet: nobody has got a machine.")
    else:
        _show(settings, found[0])
    if any(one["same"] is False for one in found):
        raise typer.Exit(Exit.FAILED)


def _records(settings: Settings) -> Any:
    from cli.offline import journal_readable
    from market.homes import Home
    from storage.formats import FormatDamaged, FormatNewer, check_home
    from storage.journal import read_journal
    from storage.records import decode_record

    home = Home(settings.home)
    if not home.journal.is_dir():
        raise refused("no_journal", f"{settings.home} holds no market's journal", field="--home", remedy="run it where the market's home is")
    try:
        check_home(settings.home)
    except FormatNewer as newer:
        raise refused("home_newer", newer.message, field="--home", remedy=newer.remedy) from newer
    except FormatDamaged as damaged:
        raise refused("home_damaged", str(damaged), field="--home") from damaged

    def records() -> Iterator[tuple[int, list[dict[str, Any]]]]:
        with journal_readable():
            for record in read_journal(home.journal):
                body = decode_record(record.payload)
                yield body["at_ms"], body["events"]

    return records


_COLUMNS = (
    Column("clearing", right=True), Column("at", gives_way=3), Column("matched", right=True), Column("GPUs", right=True),
    Column("rule", gives_way=4), Column("welfare", right=True), Column("of bound", right=True, gives_way=1),
    Column("forgone", right=True, gives_way=2), Column("again"),
)  # fmt: skip


def _row(one: dict[str, Any]) -> list[str]:
    head = [str(one["number"]), format_instant(one["at_ms"])[:19].replace("T", " ")]
    if not one["replayable"]:
        return [*head, "–", "–", "–", "–", "–", "–", one["why"]]
    return [
        *head, str(len({row["job"] for row in one["matches"]})), str(sum(row["gpus"] for row in one["matches"])), one["price_rule"],
        usd(one["welfare_nanos"]), _share(one), "–" if one["forgone_nanos"] is None else usd(one["forgone_nanos"]), _said(one),
    ]  # fmt: skip


def _said(one: dict[str, Any]) -> str:
    return "same" if one["same"] else f"DIFFERS: {', '.join(one['differs'])}"


def _share(one: dict[str, Any]) -> str:
    bound = one["bound_nanos"]
    return "–" if not bound else f"{one['welfare_nanos'] / bound:.1%}"


def _show(settings: Settings, one: dict[str, Any]) -> None:
    print(f"Clearing {one['number']}, {format_instant(one['at_ms'])[:19].replace('T', ' ')} UTC, record {one['record']}")
    if not one["replayable"]:
        print(f"cannot be made again: {one['why']}")
        return
    print(f"{one['bids']} bids, {one['offers']} offers; {one['algorithm']}, {one['looks']:,} looks of {one['effort']:,}; price rule {one['price_rule']}")  # fmt: skip
    rows = [
        [row["job"], str(row["gpus"]), row["offer"], usd(row["ask_nanos_per_gpu_hour"]), usd(row["price_nanos_per_gpu_hour"])]
        for row in one["matches"]
    ]
    print_table(settings, [Column("job"), Column("GPUs", right=True), Column("offer"), Column("ask", right=True), Column("price", right=True)], rows)  # fmt: skip
    bound = "" if one["bound_nanos"] is None else f"; no clearing reaches more than {usd(one['bound_nanos'])} ({_share(one)})"
    print(f"welfare {usd(one['welfare_nanos'])}{bound}")
    if one["forgone_nanos"]:
        print(f"waiting, turns and the price rule cost {usd(one['forgone_nanos'])} of it")
    if one["waits"] is not None:
        show_waits(settings, one["waits"], "waited", "ms", format_duration)
    by_rule = [
        [rule, str(told["matches"]), usd(told["nanos_per_hour"]), exact_usd(sum(told["bills_nanos"].values()))]
        for rule, told in one["rules"].items()
    ]
    print_table(settings, [Column("price rule"), Column("jobs served", right=True), Column("$/hour", right=True), Column("billed of its leases so far", right=True)], by_rule)  # fmt: skip
    print("The same again, to the bit." if one["same"] else f"NOT the same: {one['differs']}")
