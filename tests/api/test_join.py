"""From an invitation to a member on another machine, on a real market."""

import json
import stat
from pathlib import Path

import httpx2
import pytest

from cli.main import run
from market.client import Market
from market.rates import WRONG_CODES
from market.supervisor import start
from tests.api.square import Square, digest, refusal


class Shell:
    """`torg` with the home of one machine; the market's own, or another's."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--home", str(self.home)])
        return code, *self._capsys.readouterr()


@pytest.fixture
def operator(square: Square, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME", "TORG_CA"):
        monkeypatch.delenv(name, raising=False)
    return Shell(square.home.root, capsys)


def test_a_code_makes_a_member_elsewhere_with_a_key_of_its_own(
    square: Square, operator: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    team, name = square.name("lab"), square.name("cy")
    operator("teams", "set", team)
    made = json.loads(operator("members", "invite", "--team", team, "--json")[1])
    shown = operator("members", "invite", "--expires", "1h")[1].splitlines()
    assert shown[1].startswith(f"torg join {square.url} join_")
    elsewhere = Shell(tmp_path / "elsewhere", capsys)
    code, said, _ = elsewhere("join", square.url, made["code"], "--name", name)
    assert code == 0
    assert said.startswith(f"You are {name}, a customer, team {team}. ")
    assert said.splitlines()[1] == f"From now on torg asks {square.url}; try `torg offers`."
    file = elsewhere.home / "joined.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in elsewhere.home.iterdir()) == ["joined.json"]
    assert elsewhere("wallet", "balance")[1].startswith(f"{name}: wallet $0.00")
    assert elsewhere("members", "ls")[0] == 3, "a customer is no operator"
    code, _, said = elsewhere("up", "--ray", "none")
    assert (code, "has joined a market elsewhere" in said) == (3, True)
    code, _, said = elsewhere("join", square.url, made["code"])
    assert (code, "already" in said) == (3, True)
    other = Shell(tmp_path / "other", capsys)
    code, _, said = other("join", square.url, made["code"])
    assert (code, said) == (3, "torg: code: this invitation was used (ask for a new one)\n")
    gone = json.loads(operator("members", "invite", "--role", "provider", "--json")[1])
    operator("members", "uninvite", gone["invite"])
    assert other("join", square.url, gone["code"])[2] == "torg: code: this invitation was revoked (ask for a new one)\n"
    rows = {one["invite"]: one for one in json.loads(operator("members", "invites", "--json")[1])}
    assert (rows[made["invite"]]["used_by"], rows[gone["invite"]]["state"]) == (name, "revoked")
    journal = b"".join(path.read_bytes() for path in square.home.journal.glob("*.journal"))
    assert made["code"].encode() not in journal
    assert json.loads(file.read_text())["key"].encode() not in journal
    assert name in operator("members", "ls")[1]
    assert made["code"] not in operator("members", "invites")[1]


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_key(
    square: Square, operator: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads(operator("members", "invite", "--name", square.name("dan"), "--json")[1])
    elsewhere = Shell(tmp_path / "elsewhere", capsys)
    with monkeypatch.context() as broken:
        broken.setattr("cli.verbs.join._kept_ca", lambda _: 1 / 0)  # dies when the market has the key and nobody knows
        with pytest.raises(ZeroDivisionError):
            elsewhere("join", square.url, made["code"])
    assert sorted(path.name for path in elsewhere.home.iterdir()) == ["joining.json"]
    assert stat.S_IMODE((elsewhere.home / "joining.json").stat().st_mode) == 0o600
    told = json.loads(elsewhere("join", square.url, made["code"], "--json")[1])
    assert told["member"] == made["member"]
    assert "key" not in told
    assert elsewhere("wallet", "balance")[0] == 0


def test_a_home_with_a_market_does_not_join_another(square: Square, operator: Shell) -> None:
    code, _, said = operator("join", square.url, "join_i0_x")
    assert (code, "is the home of a market" in said) == (3, True)
    assert operator("join", square.url, "nonsense")[0] == 2


def test_whoever_guesses_is_slowed_down_and_a_right_code_is_not(
    spare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME", "TORG_CA"):
        monkeypatch.delenv(name, raising=False)
    url = start(spare, no_ray=True).url  # of its own, because the others ask from this address too
    made = json.loads(Shell(spare, capsys)("members", "invite", "--json")[1])
    with httpx2.Client(base_url=url) as http:

        def say(code: str) -> httpx2.Response:
            body = {"code": code, "member": "eve", "key_sha256": digest(code)}
            return http.post("/v1/join", json=body)

        found = [say(f"{made['code'][:-1]}{'x' if made['code'][-1] != 'x' else 'y'}") for _ in range(int(WRONG_CODES.burst) + 2)]
        assert found[-1].status_code == 429
        assert int(found[-1].headers["Retry-After"]) >= 1
        assert found[0].json()["code"] == "invite_unknown"
        assert say(made["code"]).status_code == 201


def test_roles_and_suspensions_from_the_command_line(square: Square, operator: Shell) -> None:
    ann, bob = square.name("ann"), square.name("bob")
    key = json.loads(operator("members", "add", ann, "--json")[1])["key"]
    operator("members", "add", bob)
    assert operator("members", "suspend", ann, "--reason", "unpaid")[1].startswith(f"{ann} is suspended: ")
    assert f"{ann} " in operator("members", "ls")[1]
    assert "suspended" in operator("members", "ls")[1]
    with Market(square.url, key) as market:
        assert market.balance()["account"] == ann, "it may read"
        assert refusal(lambda: market.submit_job("j", {})).status in (403, 422)
    assert operator("members", "resume", ann)[1] == f"{ann} is back.\n"
    second = json.loads(operator("members", "add", square.name("op2"), "--role", "operator", "--json")[1])
    operator("members", "suspend", second["member"])
    with Market(square.url, second["key"]) as market:
        assert market.members(), "it may read"
        calls = (market.rebuild_books, lambda: market.set_team("t"), lambda: market.resume_member(second["member"]))
        assert {refusal(call).code for call in calls} == {"member_suspended"}
    assert operator("members", "role", bob, "provider")[1] == f"{bob} is a provider now.\n"
    assert operator("members", "role", bob, "king")[0] == 2
    code, _, said = operator("members", "role", "operator", "customer")
    assert (code, said) == (3, "torg: member: nobody changes its own standing: another operator must do it\n")
