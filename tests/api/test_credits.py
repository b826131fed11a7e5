"""`torg members grant` and what a member sees of it, on a real market."""

import json

from market.client import Market
from tests.api.conftest import Torg
from tests.api.square import USD, Square, make_spec, refusal


def test_a_member_sees_what_was_granted_apart_from_what_was_bought(square: Square, torg: Torg) -> None:
    ann, eve = square.name("ann"), square.name("eve")
    keys = {name: json.loads(torg("members", "add", name, "--json")[1])["key"] for name in (ann, eve)}
    code, said, _ = torg("members", "grant", ann, "3", "--expires", "30d", "--reason", "a course", "--id", eve)
    assert (code, said.startswith(f"$3.00 granted to {ann} until 2")) == (0, True)
    torg("wallet", "deposit", "2", "--account", ann)
    with Market(square.url, keys[ann]) as market:
        found = market.balance()
        assert (found["wallet_nanos"], found["granted_nanos"], found["bought_nanos"]) == (5 * USD, 3 * USD, 2 * USD)
        market.submit_job(square.name("job"), make_spec("nowhere", limits__budget_nanos=4 * USD))
        assert market.balance()["wallet_nanos"] == USD
        assert {one["kind"] for one in market.transfers()} == {"deposit", "grant", "hold"}
        assert [one["kind"] for one in market.transfers(account=f"credit:{eve}")] == ["hold", "grant"]
        assert refusal(market.grants).status == 403
    with Market(square.url, keys[eve]) as market:  # a grant's name is nobody's
        assert refusal(lambda: market.transfers(account=f"credit:{eve}")).status == 404
    shown = torg("wallet", "balance", "--account", ann)[1]
    assert "wallet $1.00" in shown
    assert "bought $1.00, granted $0.00" not in shown, "what is spent is not listed any more"
    assert torg("members", "grant", ann, "3", "--expires", "2020-01-01", "--reason", "late")[0] == 2
    code, _, said = torg("teams", "grant", "nobody-at-all", "3", "--reason", "r")
    assert (code, said) == (3, "torg: there is no team 'nobody-at-all' (`torg teams ls` shows all)\n")
    torg("members", "grant", ann, "0.5", "--reason", "more", "--id", square.name("g"))
    assert "  bought $1.00, granted $0.50" in torg("wallet", "balance", "--account", ann)[1]
