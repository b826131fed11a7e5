"""docs/FAULTS.md is true: its table is the code's, and its examples are what the exchange really charges."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from market.faults import BY_REASON, Charged, render_table
from market.pricing import pause_window_ms
from storage.ledger import KINDS
from storage.units import charge_nanos, fee_total
from tests.market.scene import Scene

PAGE = (Path(__file__).parents[2] / "docs" / "FAULTS.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- begin: market/faults.py -->\n", "<!-- end -->"
# Of a table in an example: lease, metered, charged, charge, fee, earned, refunded.
ROW = re.compile(
    r"^\| (lease-\d+) \| ([\d ]+) ms \| ([\d ]+) ms \| ([\d ]+) \| ([\d ]+) \| ([\d ]+) \| ([\d ]+) \|$", re.M
)
ROUND_MS = 10_000


def test_the_table_is_the_codes() -> None:
    table = PAGE.partition(BEGIN)[2].partition(END)[0]
    assert table == render_table()


def test_every_reason_in_the_prose_is_a_cause_or_a_kind_of_transfer() -> None:
    prose = PAGE.replace(render_table(), "")
    named = set(re.findall(r"\(`([a-z_]+)`\)", prose))
    assert named
    assert named <= {*BY_REASON, *KINDS}


def start(budget_nanos: int = 1_000_000_000) -> Scene:
    """A core for 0.36 USD an hour and one for 0.72, and a job on both."""
    scene = Scene()
    scene.offer("offer-1", "p1", 0.36)
    scene.offer("offer-2", "p2", 0.72)
    scene.submit(limits__budget_nanos=budget_nanos)
    scene.clear()
    scene.start_all()
    return scene


def train(scene: Scene, rounds: int, durable: int) -> None:
    """Rounds of ten seconds by both, the first `durable` of them durable."""
    for number in range(1, rounds + 1):
        scene.wait(ROUND_MS)
        meters = {0: ROUND_MS * number, 1: ROUND_MS * number}
        scene.do(replace(scene.make_round(number, meters), duration_ms=ROUND_MS))
        if number <= durable:
            scene.checkpoint(number)


def one_worker_killed() -> Scene:
    scene = start()
    train(scene, rounds=3, durable=2)
    scene.wait(4_000)
    scene.read(s0=34_000, s1=34_000)
    scene.lose(0, "worker_killed")
    scene.checkpoint(3)
    scene.wait(6_000)
    scene.do(replace(scene.make_round(4, {1: 40_000}), duration_ms=ROUND_MS))
    scene.checkpoint(4)
    scene.halt("done")
    return scene


def every_machine_lost() -> Scene:
    scene = start()
    train(scene, rounds=3, durable=2)
    scene.wait(4_000)
    scene.read(s0=34_000, s1=34_000)
    scene.lose(0, "node_died")
    scene.lose(1, "node_died")
    return scene


def escrow_runs_out() -> Scene:
    scene = start(budget_nanos=20_000_000)
    train(scene, rounds=4, durable=4)
    scene.wait(6_000)
    scene.read(s0=46_666, s1=46_666)
    scene.wait(1_000)
    assert scene.exchange.directive("job-1")["wanted"] == "run"
    scene.read(s0=46_667, s1=46_667)
    assert scene.exchange.directive("job-1")["wanted"] == "pause"
    scene.wait(3_000)
    scene.do(replace(scene.make_round(5, {0: 50_000, 1: 50_000}), duration_ms=ROUND_MS))
    scene.checkpoint(5)
    scene.wait(1_000)
    scene.read(s0=51_000, s1=51_000)
    scene.halt("paused", "paused")
    return scene


EXAMPLES = {
    "One worker is killed": one_worker_killed,
    "Every machine is lost": every_machine_lost,
    "The escrow runs out": escrow_runs_out,
}


def number(text: str) -> int:
    return int(text.replace(" ", ""))


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_what_the_exchange_charges(title: str) -> None:
    play: Callable[[], Scene] = EXAMPLES[title]
    scene, text = play(), PAGE.partition(f"### {title}\n")[2].partition("\n### ")[0]
    told = {row[0]: tuple(map(number, row[1:])) for row in ROW.findall(text)}
    view = scene.view()
    found = {}
    for lease in view["leases"]:
        metered, charged, price = lease["metered_ms"], lease["charged_ms"], lease["price_nanos_per_gpu_hour"]
        charge = charge_nanos(price, 1, charged)
        fee = fee_total(charge)
        assert lease["charged_nanos"] == charge
        refunded = charge_nanos(price, 1, metered) - charge
        found[lease["id"]] = (metered, charged, charge, fee, charge - fee, refunded)
    assert told == found
    balances = scene.balances()
    assert sum(balances.values()) == 0
    state = re.search(r"The job is then \*\*(\w+)\*\*, billed ([\d ]+), with ([\d ]+) in its escrow", text)
    assert state is not None
    assert (state[1], number(state[2]), number(state[3])) == (view["state"], view["billed_nanos"], view["escrow_nanos"])
    assert balances["fee"] == sum(row[3] for row in found.values())
    assert [balances[f"earnings:p{slot + 1}"] for slot in range(2)] == [row[4] for row in found.values()]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_the_pause_rule_in_the_third_example() -> None:
    """Two rounds of ten seconds at 300 nano-dollars a millisecond are 6 000 000."""
    assert pause_window_ms(ROUND_MS) == 20_000
    assert charge_nanos(1_080_000_000, 1, pause_window_ms(ROUND_MS)) == 6_000_000
    assert "6 000 000" in PAGE
    assert pause_window_ms(1_000) == 5_000


def test_no_fault_of_provider_or_market_is_charged_to_the_last_reading() -> None:
    for cause in BY_REASON.values():
        customers = cause.fault in ("customer", "none")
        if cause.saved_counts:
            continue  # it had notice, and is nobody's fault: committed work alone
        assert (cause.charged is Charged.LAST_READING) == customers
