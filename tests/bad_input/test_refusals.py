"""Ids that come twice, keys that open nothing, jobs that nobody has, markets that are not there: a line and an exit code."""

import json
import socket
from pathlib import Path

import yaml

from market.homes import Home
from market.supervisor import is_running, stop
from tests.api.square import USD, Square, make_offer, refusal
from tests.bad_input.conftest import Ran, Torg, run_torg
from tests.cli.fake_market import FakeMarket

JOB = {
    "name": "mine",
    "workload": "byte_lm",
    "data": "none",
    "steps": 24,
    "workers": {"gpu": ["cpu"], "region": ["elsewhere"]},
    "limits": {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1.0},
    "wait": True,
}


def test_a_deposit_twice_counts_once_and_another_amount_is_refused(square: Square, torg: Torg) -> None:
    name, ann = square.newcomer("customer")
    first = torg("wallet", "deposit", "20", "--id", f"twice-{name}", "--account", name, "--json")
    again = torg("wallet", "deposit", "20", "--id", f"twice-{name}", "--account", name, "--json")
    assert (first.code, again.code) == (0, 0)
    assert json.loads(first.out) == json.loads(again.out)
    other = torg("wallet", "deposit", "21", "--id", f"twice-{name}", "--account", name, "--json")
    assert (other.code, other.error["code"]) == (3, "conflict")
    assert f"twice-{name}" in other.err
    assert ann.balance()["wallet_nanos"] == 20 * USD


def test_a_job_twice_is_one_job_and_another_one_under_its_id_is_refused(
    square: Square, torg: Torg, tmp_path: Path
) -> None:
    square.local("operator").deposit("for-twice", "customer", 3 * USD)
    before = square.local("customer").balance()["wallet_nanos"]

    def submit(**changes: object) -> Ran:
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB | changes))
        return torg("submit", "job.yaml", "-y", "--id", "job-twice", "--json")

    first, again = submit(), submit()
    assert (first.code, again.code) == (0, 0)
    assert json.loads(first.out)["id"] == json.loads(again.out)["id"] == "job-twice"
    other = submit(seed=2)
    assert (other.code, other.error["code"]) == (3, "conflict")
    assert "job-twice" in other.err
    assert square.local("customer").balance()["wallet_nanos"] == before - USD, "the budget is held once"
    assert torg("cancel", "job-twice").code == 0
    assert submit().code == 0, "the first answer again, whatever became of the job"
    assert square.local("customer").balance()["wallet_nanos"] == before


def test_an_offer_twice_is_one_offer_and_other_terms_are_refused(square: Square) -> None:
    _, owner = square.newcomer("provider")
    offer = make_offer(square.name("offer"), "twice")
    assert owner.place_offer(offer) == owner.place_offer(offer)
    refused = refusal(lambda: owner.place_offer(offer | {"price_nanos_per_gpu_hour": 1}))
    assert (refused.status, refused.code) == (409, "conflict")
    assert refused.remedy
    [listed] = [one for one in owner.offers() if one["id"] == offer["id"]]
    assert listed["price_nanos_per_gpu_hour"] == offer["price_nanos_per_gpu_hour"]


def test_a_job_that_nobody_has(torg: Torg, tmp_path: Path) -> None:
    for verb in (["job"], ["logs"], ["explain"], ["cancel"], ["watch"], ["invoice"], ["provenance"], ["resume", "--add-budget", "1"]):  # fmt: skip
        ran = torg(verb[0], "job-never", *verb[1:], "--json")
        assert (ran.code, ran.error["code"]) == (3, "unknown_job"), verb
        assert "job-never" in ran.err
    ran = torg("result", "job-never", "-o", str(tmp_path / "out"), "--json")
    assert (ran.code, ran.error["code"]) == (3, "unknown_job")
    assert not (tmp_path / "out").exists()


def test_a_wrong_a_revoked_and_another_roles_key(square: Square, torg: Torg) -> None:
    wrong = torg("jobs", "--key", "torg_nonsense", "--json")
    assert (wrong.code, wrong.error["code"]) == (3, "key_wrong")
    name = square.name("customer")
    key = square.local("operator").add_member(name, "customer")["key"]
    assert torg("jobs", "--key", key, "--json").code == 0
    square.local("operator").revoke_member(name)
    revoked = torg("jobs", "--key", key, "--json")
    assert (revoked.code, revoked.error["code"]) == (3, "key_revoked")
    role = torg("wallet", "deposit", "1", "--key", square.home.read_keys()["customer"], "--json")
    assert (role.code, role.error["code"]) == (3, "wrong_role")
    for ran in (wrong, revoked, role):
        assert key not in ran.err + ran.out


def test_a_market_that_is_not_up_is_exit_4(tmp_path: Path) -> None:
    nothing = run_torg(tmp_path, "offers", "--json")
    assert (nothing.code, nothing.error["code"]) == (4, "market_unreachable")
    assert "torg up" in nothing.err
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        down = run_torg(tmp_path, "offers", "--url", url, "--key", "k", "--json")
    assert (down.code, down.error["code"]) == (4, "market_unreachable")
    assert url in down.err


def test_a_port_in_use_and_an_address_of_another_machine(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = run_torg(home, "up", "--ray", "none", "--port", port, "--json")
    assert (ran.code, ran.error["code"], ran.error["field"]) == (3, "port_in_use", "--port")
    assert port in ran.err
    ran = run_torg(home, "up", "--ray", "none", "--host", "192.0.2.1", "--json")
    assert (ran.code, ran.error["code"]) == (3, "address_unusable")
    assert not is_running(Home(home))
    assert not stop(home)


def test_a_second_up_shows_the_first(square: Square, torg_process: Torg) -> None:
    ran = torg_process("up", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["url"] == square.url
    assert json.loads(ran.out)["already"] is True


def test_other_versions_at_a_provider_say_what_to_install(tmp_path: Path) -> None:
    ray = {"address": "127.0.0.1:1", "token": "t", "versions": {"python": "3.10.4", "ray": "2.9.1", "torg": "7.0.0"}}
    with FakeMarket(routes={"GET /v1/ray": (200, ray)}) as market:
        command = ("provide", "--price", "0.45", "--gpus", "cpu:1", "--url", market.url, "--key", "k", "--json")
        ran = run_torg(tmp_path, *command)
        assert [one for one in market.asked if one.method == "POST"] == [], "nothing was offered"
    assert ran.code == 3
    for part in ("use Python 3.10.4", "ray==2.9.1", "torg[node]==7.0.0"):
        assert part in ran.error["message"]
