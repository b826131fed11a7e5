"""`torg members` on a real market: who is in, a key shown once, and its end."""

import json
from functools import partial

from market.client import Market
from tests.api.conftest import Torg
from tests.api.square import Square, refusal


def test_a_member_comes_in_by_name_and_its_key_ends_at_once(square: Square, torg: Torg) -> None:
    members = partial(torg, "members")
    ann = square.name("ann")
    made = json.loads(members("add", ann, "--json")[1])
    assert made == {"member": ann, "role": "customer", "key": made["key"]}
    assert made["key"] not in members("ls")[1] + members("ls", "--json")[1]
    with Market(square.url, made["key"]) as market:
        assert market.balance()["account"] == ann
        code, out, _ = members("revoke", ann)
        assert (code, out.startswith(f"The key of {ann} is revoked.")) == (0, True)
        assert refusal(market.balance).code == "key_revoked"
    bob = square.name("bob")
    old, new = (json.loads(members(verb, bob, "--json")[1])["key"] for verb in ("add", "rotate"))
    for key in (old, new):
        with Market(square.url, key) as market:
            assert market.balance()["account"] == bob, "within the grace both open"
    newest = json.loads(members("rotate", bob, "--grace", "0", "--json")[1])["key"]
    for key in (old, new):
        with Market(square.url, key) as market:
            assert refusal(market.balance).code == "key_revoked"
    with Market(square.url, newest) as market:
        assert market.balance()["account"] == bob
        members("revoke", bob)
        assert refusal(market.balance).code == "key_revoked"
    row = next(one for one in json.loads(members("ls", "--json")[1]) if one["member"] == ann)
    assert (row["role"], row["revoked"]) == ("customer", True)
    line = next(line for line in members("ls")[1].splitlines() if ann in line.split())
    assert line.split()[:3] == [ann, "customer", "revoked"]
    assert len(line) <= 100
    again = json.loads(members("add", ann, "--json")[1])
    assert again["key"] != made["key"]
    assert members("add", ann, "--role", "king")[0] == 2
    code, _, said = members("revoke", "operator")
    assert (code, said) == (3, "torg: member: nobody revokes itself: another operator must do it\n")
