"""Batches, failed ids, corrections and closed periods, as an operator meets them; each survives a replay."""

import random

import pytest

from market import bookkeeping
from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
from market.commands import Deposit, Payout
from market.outcomes import Settings
from storage import large
from storage.ledger import Status
from storage.records import decode_record, encode_record, spread_record
from storage.transfer_batches import MAGIC, TransferBatch
from tests.market.scene import USD, Scene


def batch_of(*told: str) -> BookTransfers:
    """`id kind account amount [linked]` each."""
    rows = [(id, kind, account, int(amount), bool(rest)) for id, kind, account, amount, *rest in map(str.split, told)]
    return BookTransfers("op", *zip(*rows, strict=True))


def statuses(scene: Scene, *told: str) -> list[str]:
    return scene.do(batch_of(*told))["statuses"]


def same_after_replay(scene: Scene) -> None:
    again = scene.replayed()
    assert again.fingerprint() == scene.exchange.fingerprint()
    assert again._state.ledger.to_bytes() == scene.exchange._state.ledger.to_bytes()


def test_each_transfer_of_a_batch_has_a_status_of_its_own() -> None:
    scene = Scene()
    told = ("a deposit ann 5", "b deposit bob 7", "c payout p1 1", "d deposit nobody 1", "e deposit p1 1", "d! deposit ann 1",
            "f deposit ann 0", "g deposit ann 99999999999999999", "a deposit ann 5", "a deposit ann 6", "h payout ann 1")  # fmt: skip
    found = statuses(scene, *told)
    assert found == [
        "created", "created", "would_overdraw", "account_unknown", "credit_not_of_kind", "id_malformed", "amount_not_positive",
        "amount_too_large", "exists", "exists_with_different_amount", "debit_not_of_kind",
    ]  # fmt: skip
    assert scene.records[-1][:4] == MAGIC
    events = spread_record(scene.records[-1])["events"]
    assert [(event["type"], event["id"]) for event in events] == [("transfer", "a"), ("transfer", "b"), ("transfer_refused", "c")]
    assert scene.exchange.balance("bob")["wallet_nanos"] == 7
    records = len(scene.records)
    assert statuses(scene, *told)[:3] == ["exists", "exists", "would_overdraw"]
    assert len(scene.records) == records
    same_after_replay(scene)


def test_a_large_batch_makes_the_record_that_it_makes_row_by_row(monkeypatch) -> None:
    draw = random.Random(3)
    sides = [*[("deposit", "ann"), ("deposit", "bob")] * 9, ("payout", "p1")]
    told = [f"t{number} {kind} {account} {draw.randrange(1, 99)}" for number, (kind, account) in enumerate(draw.choices(sides, k=1_000))]
    records = []
    for least in (1, 1 << 30):
        monkeypatch.setattr(large, "LARGE", least)
        scene = Scene()
        assert set(statuses(scene, *told)) == {"created", "would_overdraw"}
        assert set(statuses(scene, *told[::2], "new deposit bob 1")) == {"exists", "would_overdraw", "created"}
        same_after_replay(scene)
        records.append(scene.records)
        monkeypatch.setattr(bookkeeping, "_sides_of_own_kind", lambda *_: None)
    assert records[0] == records[1]


def test_a_chain_is_booked_whole_or_not_at_all() -> None:
    scene = Scene()
    assert statuses(scene, "x payout p1 3 linked", "y deposit bob 3") == ["would_overdraw", "linked_failed"]
    assert scene.exchange.balance("bob")["wallet_nanos"] == 0
    assert statuses(scene, "z deposit bob 3 linked", "w deposit ann 3") == ["created", "created"]
    assert statuses(scene, "v deposit bob 3 linked") == ["linked_open"]
    assert scene.exchange.balance("bob")["wallet_nanos"] == 3
    same_after_replay(scene)


def test_a_failed_id_stays_failed() -> None:
    scene = Scene()
    assert scene.refused(Payout("pay", "p1", 5, "op")).code == "insufficient_funds"
    statuses(scene, "fund deposit ann 9")
    scene.do(CorrectTransfer("back", "fund", None, "wrong account", "op"))
    scene.restart()
    again = scene.refused(Payout("pay", "p1", 5, "op"))
    assert (again.code, again.remedy) == ("insufficient_funds", "use a new id for a new try")
    assert scene.refused(Payout("pay", "p1", 6, "op")).code == "conflict"
    assert scene.refused(Deposit("pay", "ann", 5, "op")).code == "conflict"
    same_after_replay(scene)


def test_a_market_that_is_full_of_money_refuses_for_good() -> None:
    scene = Scene(Settings(max_total_nanos=100 * USD + 10))
    assert scene.refused(Deposit("more", "ann", 11, "op")).code == "too_much_money"
    assert statuses(scene, "m1 deposit ann 6", "m2 deposit ann 6", "m3 deposit bob 4", "more deposit ann 11") == [
        "created", "too_much_money", "created", "too_much_money",
    ]  # fmt: skip
    assert scene.refused(Deposit("m2", "ann", 6, "op")).code == "too_much_money"
    same_after_replay(scene)


def test_a_correction_reverses_and_says_why() -> None:
    scene = Scene()
    made = scene.do(CorrectTransfer("c1", "d1", 40 * USD, "typed twice", "op"))
    assert (made["debit"], made["credit"], made["amount_nanos"]) == ("wallet:ann", "world", 40 * USD)
    assert scene.exchange.balance("ann")["wallet_nanos"] == 60 * USD
    assert scene.exchange.transfers("ann")[0]["kind"] == "correction"
    assert scene.do(CorrectTransfer("c1", "d1", 40 * USD, "typed twice", "op")) == made
    assert scene.refused(CorrectTransfer("c1", "d1", 41 * USD, "typed twice", "op")).code == "conflict"
    assert scene.refused(CorrectTransfer("c2", "d1", 61 * USD, "too much", "op")).code == "corrected_already"
    assert scene.do(CorrectTransfer("c3", "d1", None, "the rest", "op"))["amount_nanos"] == 60 * USD
    assert scene.refused(CorrectTransfer("c4", "d1", None, "once more", "op")).code == "corrected_already"
    assert scene.refused(CorrectTransfer("c5", "c1", None, "a correction", "op")).code == "not_correctable"
    assert scene.refused(CorrectTransfer("c6", "never", None, "nothing", "op")).code == "unknown_transfer"
    assert scene.refused(CorrectTransfer("c7", "d1", 1, "", "op")).field == "reason"
    assert scene.refused(CorrectTransfer("c8", "d1", -1, "x", "op")).field == "amount_nanos"
    assert scene.refused(CorrectTransfer("c9", "d1", 1, "x", "ann")).code == "forbidden"
    same_after_replay(scene)


def test_a_correction_takes_no_more_than_there_is_and_its_id_stays_failed() -> None:
    scene = Scene()
    scene.submit()
    held = 100 * USD - scene.exchange.balance("ann")["wallet_nanos"]
    assert held > 0
    assert scene.refused(CorrectTransfer("c", "d1", None, "all of it", "op")).code == "insufficient_funds"
    scene.do(Deposit("d2", "ann", 100 * USD, "op"))
    assert scene.refused(CorrectTransfer("c", "d1", None, "all of it", "op")).code == "insufficient_funds"
    assert scene.do(CorrectTransfer("c-2", "d1", None, "all of it", "op"))["amount_nanos"] == 100 * USD
    same_after_replay(scene)


def test_a_closed_period_is_sealed_with_every_balance() -> None:
    scene = Scene()
    scene.now_ms += 1_000
    through_ms = scene.now_ms
    scene.now_ms += 1_000
    scene.do(Deposit("late", "bob", 5, "op"))
    period = scene.do(ClosePeriod(through_ms, "op"))
    assert (period["number"], period["transfers"], period["from_ms"]) == (1, 1, 0)
    sealed = decode_record(scene.records[-1])["events"][0]
    assert sealed["balances"] == {"wallet:ann": 100 * USD, "world": -100 * USD}
    assert scene.do(ClosePeriod(through_ms, "op")) == period
    assert scene.refused(ClosePeriod(through_ms - 1, "op")).code == "period_closed"
    assert scene.refused(ClosePeriod(scene.now_ms + 1, "op")).field == "through_ms"
    assert scene.refused(ClosePeriod(-1, "op")).field == "through_ms"
    assert scene.refused(ClosePeriod(10**18, "op")).field == "through_ms"
    assert scene.refused(ClosePeriod(None, "ann")).code == "forbidden"
    # What was booked before stays correctable, by an entry of today.
    scene.now_ms += 1_000
    scene.do(CorrectTransfer("c", "d1", 1, "a slip", "op"))
    assert scene.exchange.period(1)["balances"] == sealed["balances"]
    assert scene.do(ClosePeriod(None, "op"))["from_ms"] == through_ms + 1
    ledger = scene.exchange._state.ledger
    batch = TransferBatch([*"ab"], ["x"], b"\0", [0], [1], [1])
    batch.names = ["world", "wallet:ann"]
    assert ledger.decide(batch, through_ms) == [Status.PERIOD_CLOSED]
    same_after_replay(scene)


def test_a_batch_whose_bytes_would_look_like_a_record_is_written_as_json() -> None:
    amount = int.from_bytes(b"\0TREC\0\0\0", "little")
    batch = TransferBatch(["world", "wallet:a"], ["x"], b"\0", [0], [1], [amount])
    payload = encode_record(7, [{"type": "transfers", "batch": batch}])
    assert b"TREC" not in payload
    assert payload[:1] == b"{"
    assert decode_record(payload)["events"][0]["batch"].encode(7) == batch.encode(7)


@pytest.mark.parametrize("count", [0, 8_191])
def test_a_batch_has_a_limit(count) -> None:
    scene = Scene()
    many = BookTransfers("op", ["a"] * count, ["deposit"] * count, ["ann"] * count, [1] * count)
    assert scene.refused(many).field == "transfers"
