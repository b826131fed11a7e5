"""`torg teams` on a real market, from the first team to its end."""

import json

from tests.api.conftest import Torg
from tests.api.square import Square


def test_an_operator_makes_teams_and_reads_them(square: Square, torg: Torg) -> None:
    ann, team = square.name("ann"), square.name("lab")
    torg("members", "add", ann)
    code, _, said = torg("members", "add", ann, "--role", "provider")
    remedy = f"`torg members rotate {ann}` gives it a new key, `torg members role` another role"
    assert (code, said) == (3, f"torg: NAME: {ann} is a member already ({remedy})\n")
    made = torg("teams", "set", team, "--weight", "2", "--quota", "16")
    assert made[:2] == (0, f"Team {team}: weight 2, at most 16 units at once.\n")
    assert torg("teams", "set", team, "--quota", "none")[1] == f"Team {team}: weight 2, no quota.\n"
    assert torg("teams", "set", team, "--quota", "many")[0] == 2
    limited = torg("teams", "set", team, "--limit-per-month", "1000")[1]
    assert limited == f"Team {team}: weight 2, no quota, $0.00 of $1,000.00 a month.\n"
    assert torg("members", "limit", ann, "--limit-per-day", "20")[1] == f"{ann}: $0.00 of $20.00 a day.\n"
    assert "$0.00 of $20.00 a day" in torg("members", "ls")[1]
    assert torg("members", "limit", ann, "--limit-per-day", "none")[1] == f"{ann}: no limit.\n"
    assert torg("members", "limit", ann)[0] == 2
    assert torg("teams", "move", ann, team)[1] == f"{ann} belongs to team {team}.\n"
    row = next(one for one in json.loads(torg("teams", "ls", "--json")[1]) if one["team"] == team)
    assert (row["weight"], row["quota_units"], row["members"], row["units"]) == (2, None, 1, 0)
    assert team in torg("teams", "ls")[1]
    code, _, said = torg("teams", "rm", team)
    assert (code, said) == (3, f"torg: team {team} has members: {ann} (move them to another)\n")
    assert torg("teams", "move", ann, "none")[1] == f"{ann} belongs to no team.\n"
    assert torg("teams", "rm", team)[1] == f"There is no team {team} any more.\n"
    code, _, said = torg("teams", "move", ann, team)
    assert (code, said) == (3, f"torg: there is no team '{team}' (`torg teams ls` shows all)\n")
