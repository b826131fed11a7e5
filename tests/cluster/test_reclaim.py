"""An owner takes its machine back while somebody trains there: it is free in seconds, and the job goes on elsewhere."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from market.actors.host_config import Hardware, read_config
from market.actors.joining import offer_body
from market.client import Market
from market.provider_control import ask
from tests.cluster.plaza import ELSEWHERE, ELSEWHERE_NANOS, Json, Plaza, ProviderHost, gone, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def say(host: ProviderHost, **wish: object) -> Json:
    """The host's last answer."""
    return [*ask(host.config.parent / "home", wish, 60)][-1]


def offer_of(plaza: Plaza, host: ProviderHost) -> Json:
    return next(one for one in plaza.local("operator").offers() if one["id"] == host.offer)


def test_a_machine_is_taken_back_at_a_boundary_and_the_job_goes_on_elsewhere_also_while_the_market_is_away(
    plaza: Plaza,
) -> None:
    job = plaza.submit_lasting(workers__min=1, workers__max=1, checkpoint__every_rounds=1000)
    plaza.wait_rounds(job, 3)
    first = plaza.worker_of(job)
    host = plaza.host_of(first["provider"])
    family = [psutil.Process(first["pid"]), *psutil.Process(first["pid"]).children(recursive=True)]

    taken = say(host, ask="reclaim", why="mine")

    assert all(gone(process) for process in family), "the machine is free when the owner is told so"
    assert (taken["gpus"], taken["leases"], taken["told"]) == (1, [first["id"]], True)
    assert (offer_of(plaza, host)["state"], offer_of(plaza, host)["held"]["why"]) == ("paused", "mine")
    again = say(host, ask="reclaim", why="mine")
    assert (again["gpus"], again["leases"]) == (1, [])
    until(lambda: plaza.lease(job, first["id"])["state"] == "ended", "the lease is over")
    ended = plaza.lease(job, first["id"])
    assert (ended["reason"], ended["fault"]) == ("preempted", "provider")
    left_at = plaza.job(job)["rounds_committed"]
    assert ended["charged_ms"] > 0, "its rounds are durable, although no checkpoint was due"
    assert plaza.job(job)["round_durable"] == left_at
    second = plaza.worker_of(job)
    plaza.wait_newcomer(job, first["epoch"])
    assert [one["round"] for one in plaza.rounds(job)][: left_at + 1] == [*range(1, left_at + 2)], "none is made again"

    elsewhere = plaza.host_of(second["provider"])
    actor = psutil.Process(second["pid"])
    exchange = plaza.home.read_pid("exchange")
    assert exchange is not None
    os.kill(exchange, signal.SIGSTOP)
    try:
        away = say(elsewhere, ask="reclaim", why="mine, too", notice_s=1)
        assert gone(actor)
        assert (away["leases"], away["told"]) == ([second["id"]], False)
    finally:
        os.kill(exchange, signal.SIGCONT)
    until(lambda: plaza.lease(job, second["id"])["state"] == "ended", "the market hears of it when it is back")
    until(lambda: offer_of(plaza, elsewhere)["state"] == "paused", "and that the offer is paused")
    assert plaza.lease(job, second["id"])["fault"] == "provider"

    assert [say(one, ask="release")["gpus"] for one in (host, elsewhere)] == [0, 0]
    plaza.wait_newcomer(job, second["epoch"])
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_a_host_whose_offer_is_withdrawn_or_placed_by_another_machine_says_so_and_ends(square: Plaza) -> None:
    host = square.add_host("finn", ELSEWHERE_NANOS, ELSEWHERE)
    del square.hosts[host.name]
    host.wait_ready()
    config = read_config(host.config)
    assert host.process is not None
    job = square.submit_lasting(workers__min=1, workers__max=1, workers__region=[ELSEWHERE])
    try:
        square.wait_rounds(job, 1)
        with Market(square.url, config.key) as provider:
            provider.change_offer(host.offer, "withdraw")
            assert host.process.wait(60) == 0
            assert [line["state"] for line in host.said("lease")] == ["started", "ended"], "whose lease is over works no more"
            square.local("customer").cancel_job(job)
            assert [line["message"] for line in host.said("withdrawn")] == [""]
            assert host.said("away") == []
            host.start()
            host.wait_ready()
            same = offer_body(config, Hardware("cpu", 1, 0.0), "node-elsewhere", "process", {})
            provider.place_offer(same | {"environments": offer_of(square, host)["environments"]})
            assert host.process.wait(60) == 0
            assert [line["message"] for line in host.said("withdrawn")] == ["another machine has placed it"]
            assert offer_of(square, host)["state"] == "open", "what the other machine offers stays offered"
            provider.change_offer(host.offer, "withdraw")
    finally:
        if host.alive():
            host.kill_tree()
