"""Clearings of a market of real processes, made again from its journal while it runs, after its exchange was killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from market.outcomes import Refusal
from market.replaying import replay
from storage.journal import read_journal
from storage.records import decode_record
from tests.api.square import USD, FakeProvider, Square, make_offer, make_spec, until


def test_every_clearing_comes_out_the_same_across_a_kill(square: Square) -> None:
    _, ann = square.newcomer("customer", 100 * USD)
    region = square.name("region")
    operator = square.local("operator")
    _, host = square.newcomer("provider")
    providers = [FakeProvider(host, make_offer(square.name("offer"), region, (4 + n) * USD // 10)) for n in range(3)]
    try:
        first, second, third = (square.name("job") for _ in range(3))
        ann.submit_job(first, make_spec(region))
        until(lambda: ann.job(first)["state"] == "running", "the first job has its machines")
        ann.submit_job(second, make_spec(region, workers__min=2))
        until(lambda: ann.job(second)["reason"] == "busy", "the second is told why it waits")
        square.back("exchange", square.kill("exchange"))
        assert operator.set_price_rule("uniform")["price_rule"] == "uniform"
        ann.submit_job(third, make_spec(region, workers__min=1, workers__max=1))
        until(lambda: ann.job(third)["state"] == "running", "the third takes the machine that is left")
        ann.cancel_job(first)
        until(lambda: ann.job(second)["state"] == "running", "the second has what the first gave back")
    finally:
        operator.set_price_rule("ask")
        for job in (one["id"] for one in ann.jobs()):
            ann.cancel_job(job)
        for provider in providers:
            provider.close()

    def records() -> Iterator[tuple[int, list[dict[str, Any]]]]:
        for record in read_journal(square.home.journal):
            body = decode_record(record.payload)
            yield body["at_ms"], body["events"]

    found = replay(records)
    assert not isinstance(found, Refusal)
    mine = [one for one in found if {row["job"] for row in one.get("matches", ())} & {first, second, third}]
    assert {one["price_rule"] for one in mine} == {"ask", "uniform"}
    assert [one["number"] for one in found if not one["same"]] == []
