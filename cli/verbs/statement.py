"""`torg statement`: what a provider earned, gave back and was paid out in a time, and what it has; adds up to the nano-dollar."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

import typer

from cli.arguments import exact_usd, usd
from cli.output import Cell, Column, document, print_table
from cli.session import connect
from cli.settings import Settings
from cli.verbs.billing import instant, moments
from market.client import Market

PAGE = 1_000
KINDS = {"charge": "earned", "award": "awarded", "refund": "given back", "payout": "paid out", "correction": "corrected"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("statement")(statement)


def statement(
    ctx: typer.Context,
    since: Annotated[str | None, typer.Option(help="2026-11-22, 2026-11-22T10:00Z, today, or 7d for ago")] = None,
    until: Annotated[str | None, typer.Option(help="the same; what is booked at this moment is left out")] = None,
    account: Annotated[str | None, typer.Option(help="another provider's (operators only)")] = None,
) -> None:
    """A provider's statement: what came and went by job, and the balance before and after."""
    settings: Settings = ctx.obj
    start_ms, end_ms = moments(since, until)
    market = connect(settings, "operator" if account else "provider")
    found = make_statement(list(_entries(market, account, start_ms)), start_ms, end_ms)
    now = market.balance(account)
    of = account or now["account"]
    held = sum(one["held_nanos"] for one in market.disputes() if one["provider"] == of and (one["state"], one["about"]) == ("open", "charges"))
    earned = now["earnings_nanos"]
    found |= {"account": of, "since": instant(start_ms), "until": instant(end_ms), "held_nanos": held}
    found["payable_nanos"] = max(0, earned - held)
    if settings.as_json:
        document(found)
        return
    print_table(settings, _COLUMNS, [_row(line) for line in found["lines"]], title=f"Statement of {found['account']}")
    for name in ("opening", "earned", "awarded", "given_back", "paid_out", "corrected", "closing"):
        if found[f"{name}_nanos"] or name in ("opening", "closing"):
            print(f"  {name.replace('_', ' '):<24}{exact_usd(found[f'{name}_nanos']):>18}")
    print(f"now: {usd(found['payable_nanos'])} may be paid out" + (f", {usd(held)} are held for open disputes" if held else ""))


def _entries(market: Market, account: str | None, start_ms: int | None) -> Iterator[dict[str, Any]]:
    """The account's transfers, newest first, back to the first before `start_ms`."""
    after: str | None = None
    while True:
        page = market.transfers(limit=PAGE, after=after, account=account)
        yield from page
        if len(page) < PAGE or (start_ms is not None and page[-1]["at_ms"] < start_ms):
            return
        after = page[-1]["id"]


def make_statement(entries: list[dict[str, Any]], start_ms: int | None, end_ms: int | None) -> dict[str, Any]:
    """{lines, opening_nanos, earned_nanos, awarded_nanos, given_back_nanos, paid_out_nanos, corrected_nanos, closing_nanos} of
    an account's transfers, newest first and without gaps; opening and the movements make closing, or it is a bug."""
    assert all(a["balance_nanos"] - a["amount_nanos"] == b["balance_nanos"] for a, b in pairwise(entries)), "a gap"
    own = [one for one in entries if (start_ms is None or one["at_ms"] >= start_ms) and (end_ms is None or one["at_ms"] < end_ms)]
    before = next((one for one in entries if start_ms is not None and one["at_ms"] < start_ms), None)
    opening = own[-1]["balance_nanos"] - own[-1]["amount_nanos"] if own else before["balance_nanos"] if before else 0
    sums = dict.fromkeys(KINDS.values(), 0)
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for one in reversed(own):
        kind = KINDS[one["kind"]]
        sums[kind] += one["amount_nanos"]
        key = (kind, one["job"] or one["id"])
        line = lines.setdefault(key, {"kind": kind, "job": one["job"], "id": None if one["job"] else one["id"], "from": one["at"], "amount_nanos": 0, "entries": 0})  # fmt: skip
        line |= {"to": one["at"], "amount_nanos": line["amount_nanos"] + one["amount_nanos"], "entries": line["entries"] + 1}
    closing = opening + sum(sums.values())
    assert not own or closing == own[0]["balance_nanos"], "the movements do not add up"
    named = {f"{name.replace(' ', '_')}_nanos": nanos for name, nanos in sums.items()}
    return {"lines": list(lines.values()), "opening_nanos": opening, **named, "closing_nanos": closing}


_COLUMNS = (
    Column("what"), Column("job"), Column("from", gives_way=2), Column("to", gives_way=1), Column("entries", right=True, gives_way=3),
    Column("amount", right=True),
)  # fmt: skip


def _row(line: dict[str, Any]) -> list[Cell]:
    from cli.verbs.wallet import moment

    return [
        line["kind"], line["job"] or line["id"], moment(line["from"]), moment(line["to"]), str(line["entries"]),
        exact_usd(line["amount_nanos"]),
    ]  # fmt: skip
