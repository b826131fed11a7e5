"""A provider's host process: `python -m market.actors.provider_host --config FILE` (see `host_config.HostConfig`).

1. Asks the market where Ray is, compares versions (exit 3 and what to install), joins with a node of its own, under watch
   (`join_watch.py`).
2. Makes a warm worker and measures the hardware side by side, then places the offer.
3. Long-polls its leases: gives each a warm worker and reports it started, makes the next warm one, stops the workers
   whose lease is over, reports a lease whose worker process has died. While the market is away it waits, and relists.
4. Its owner takes units back, or lets them again, over a socket in the home (`control.py`, `reclaimer.py`); so does a watch
   of the machine, if that is wanted, while its owner uses it (`idle_watch.py`).
5. SIGINT, SIGTERM or the end of its time drains: no new lease, each worker until its next round boundary, leases given
   back, node down.

Prints one JSON object a line on stdout: {"event": "waiting" | "joined" | "ready" | "lease" | "earned" | "away" | "back" |
"selftest" | "measured" | "another_history" | "unwitnessed" | "draining" | "drained" | "paused" | "resumed" | "untold" | "refused" | "over" | "rejoin" |
"withdrawn", …}. Everything it starts is its descendant and ends with it.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from market.actors.control import Control
from market.actors.head_watch import HeadWatch
from market.actors.host_config import (
    ConfigRefused,
    HostConfig,
    find_hardware,
    own_versions,
    read_config,
    version_mismatch,
)
from market.actors.idle_watch import IdleWatch, watch_of
from market.actors.join_watch import watched
from market.actors.joining import PAUSE_AWAY_S, find_ray, join_ray, place, prepare_offer
from market.actors.machine_facts import machine_facts
from market.actors.noticed import Noticed
from market.actors.ray_node import RayNode, sweep_folders
from market.actors.reclaimer import Reclaimer
from market.actors.remeasuring import Remeasurer, measure_all
from market.actors.selftesting import begin
from market.actors.stable import Stable
from market.actors.stalls import HeadGone, WorkerEnded
from market.actors.status_lines import say
from market.client import Market, MarketUnreachable, Refused
from market.lease_lists import Lease, LeaseLists
from market.selftest_files import own_key
from market.selftests import shown_isolation, summary
from storage.machines import sign_machine
from trainers.actors.lifeline import watch

FAILED, REFUSED = 1, 3
POLL_S = 3.0
MARKETS_TROUBLE = 500  # this status and above (a full disk, books that start again) passes; a refusal does not

Json = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the host until it is drained. Exit codes: 0 drained, 1 failed, 3 refused with one line that says why."""
    parser = argparse.ArgumentParser(prog="python -m market.actors.provider_host")
    parser.add_argument("--config", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        config = read_config(given.config)
        return Host(config).run()
    except ConfigRefused as refused:
        say("refused", message=str(refused))
        return REFUSED
    except Refused as refused:
        say("refused", code=refused.code, message=refused.message, remedy=refused.remedy)
        return REFUSED


def _begin_anew() -> None:
    """Ray cannot forget a cluster within one process, so the process begins anew under the same pid."""
    say("rejoin")
    os.execv(sys.executable, [sys.executable, "-m", "market.actors.provider_host", *sys.argv[1:]])  # noqa: S606 - ourselves again


def _leave_at_once() -> None:
    """Before anything was offered; the kernel ends what there is of a node, and the next one sweeps its folder."""
    say("drained")
    os._exit(0)


class Host:
    """One provider on one machine. All decisions are taken by the main thread, from a queue of happenings."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._market = Market(config.url, config.key, patience_s=0, ca=config.ca)
        self._happenings: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._lists = LeaseLists()
        self._hardware = find_hardware(config)
        self._remeasurer = Remeasurer(self._market, config.offer, self._measure, say)
        self._ray_address = ""
        self._earned_nanos = -1
        self._offer_state = "open"
        self._withdrawn = False
        self._away = False
        self._stable: Stable | None = None
        self._reclaimer: Reclaimer | None = None
        self._noticed = Noticed(self._config.notice_ms / 1000, self._lists, lambda lease: self._happen("left", lease), self._end_lease)
        self._control: Control | None = None
        self._watch: IdleWatch | None = None
        self._heads = HeadWatch(self._market, config.home, say, lambda: time.time_ns() // 1_000_000)
        self._stopping = threading.Event()

    def run(self) -> int:
        """See `main`."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        watch(os.getppid(), lambda: self._on_signal(signal.SIGTERM))
        access = find_ray(self._config, self._market, self._stopping)
        if access is None:
            return 0
        mismatch = version_mismatch(own_versions(), access.get("versions", {}))
        if mismatch is not None:
            raise ConfigRefused(mismatch)
        node = self._join(access)
        rejoin = False
        try:
            self._offer(node)
            rejoin = self._serve(node)
            if not rejoin:
                self._drain()
        finally:
            for one in (self._watch, self._control, self._heads):
                if one is not None:
                    one.close()
            if self._reclaimer is not None:
                self._reclaimer.close()
            at_rest = self._stable is None or self._stable.close()
            node.stop() if at_rest and not rejoin else node.abandon()
            self._market.close()
        if rejoin:
            _begin_anew()
        say("drained")
        return 0

    # joining

    def _join(self, access: Json) -> RayNode:
        began = time.monotonic()
        self._ray_address = access["address"]
        sweep_folders(former_life=True)
        # In the main thread: the kernel ends the node's processes when the thread that started them ends.
        with watched(self._stopping, moved=self._has_moved, stop=_leave_at_once, anew=_begin_anew, slow=self._is_slow):
            node = join_ray(self._config, self._hardware.units, access)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        say("joined", ray_address=self._ray_address, node=node.node_id, seconds=round(time.monotonic() - began, 2))
        return node

    def _has_moved(self) -> bool:
        """Whether the market names another head than the one that is being joined."""
        if self._config.ray is not None:
            return False
        try:
            return bool(self._market.ray()["address"] != self._ray_address)
        except (MarketUnreachable, Refused):
            return False  # perhaps only for a moment: whoever is let in is heard of no more, and who is not asks again

    def _is_slow(self) -> None:
        say("waiting", message=f"Ray at {self._ray_address} has not let this machine in yet; can its ports be reached from here?")

    def _offer(self, node: RayNode) -> None:
        began = time.monotonic()
        self._stable = Stable(self._config, self._hardware, node, lambda name: self._happen("died", name))
        isolation, self._offer_body = prepare_offer(self._config, self._hardware, node.node_id, self._stable, self._measure)
        warm_s, tested = round(time.monotonic() - began, 2), self._offer_body["selftest"]
        place(self._market, self._offer_body, self._stopping)
        say(
            "ready",
            **{name: self._offer_body[name] for name in ("id", "gpu", "gpus")},
            isolation=shown_isolation(isolation, tested),
            warm_seconds=warm_s,
        )
        if isolation == "sandbox" and tested is None and self._config.selftest:
            begin(self._config.home, lambda result, why: self._happen("tested", (result, why)))

    def _measure(self, seed: int) -> dict[str, int]:
        return measure_all(self._hardware, self._config.home, self._market, seed)

    # serving

    def _serve(self, node: RayNode) -> bool:
        """Until told to stop (False) or until this node's cluster is over (True)."""
        assert self._stable is not None
        self._reclaimer = Reclaimer(self._config, self._market, self._stable, self._lists, say)
        self._noticed.stable = self._stable
        self._control = Control(self._config.home, lambda asked: self._happen("asked", asked))
        self._watch = watch_of(self._config, self._hardware, lambda found: self._happen("watched", found))
        if self._watch is not None:  # before any lease begins: what it says first comes first
            self._watch.start()
        polling = threading.Thread(target=self._poll, name="poll", daemon=True)
        polling.start()
        self._heads.start()
        try:
            return self._take_happenings(node)
        except HeadGone:
            return True

    def _take_happenings(self, node: RayNode) -> bool:
        assert self._reclaimer is not None
        while True:
            kind, what = self._happenings.get()
            if kind == "stop":
                return False
            if kind == "leases":
                if self._lists.is_newest(what):
                    self._back()
                    self._reconcile(node, what)
            elif kind == "away":
                self._gone(what)
            elif kind == "asked":
                self._reclaimer.answer(what)
            elif kind == "watched":
                self._reclaimer.watched(*what)
            elif kind == "died":
                self._report_death(node, what)
            elif kind == "left":
                self._noticed.left(what)
            elif kind == "tested":
                self._tested(*what)
            elif kind == "rejoin":
                return True
            elif kind == "refused":
                raise what
            now_ms = time.time_ns() // 1_000_000
            self._reclaimer.pass_time(now_ms)
            if self._config.until_ms is not None and now_ms >= self._config.until_ms - self._config.notice_ms:
                self._stopping.set()
                say("over")
                return False
            if not node.alive():
                return True

    def _poll(self) -> None:
        """Runs in a thread of its own until the host stops: leases, and now and then whether Ray moved."""
        seen: str | int | None = None
        relisted = False
        while not self._stopping.is_set():
            try:
                answer = self._market.leases(self._config.offer, wait_s=POLL_S, seen=seen)
                # Asked before the leases are acted on: with a head that is gone, Ray answers nothing for a minute.
                if self._config.ray is None and self._market.ray()["address"] != self._ray_address:
                    self._happen("rejoin", None)
                    return
                seen, relisted = answer["version"], False
                self._lists.heard(answer)
                self._happen("leases", answer)
            except MarketUnreachable as away:
                self._happen("away", str(away))
                self._stopping.wait(PAUSE_AWAY_S)
            except Refused as refused:
                if refused.status >= MARKETS_TROUBLE or refused.code == "too_many_requests":
                    if refused.code != "ray_starting":
                        self._happen("away", str(refused))
                    self._stopping.wait(PAUSE_AWAY_S)
                elif refused.status == 404 and not relisted:  # a market that lost its books; once, then it is our fault
                    relisted = True
                    self._relist()
                else:
                    self._happen("refused", refused)
                    return

    def _tested(self, result: Json | None, why: str) -> None:
        """Place the offer again with what the self-test says, unless it is shut: that would open it."""
        if result is None:
            say("selftest", message=why)
            return
        self._offer_body["selftest"] = result
        if self._offer_state == "open":
            self._relist()
        say("selftest", isolation=shown_isolation("sandbox", result), **summary(result) or {})

    def _relist(self) -> None:
        try:
            self._market.place_offer(self._offer_body)
        except (MarketUnreachable, Refused) as reason:
            self._happen("away", str(reason))

    def _reconcile(self, node: RayNode, answer: Json) -> None:
        assert self._stable is not None
        assert self._reclaimer is not None
        self._offer_state = answer["offer"]["state"]
        if answer.get("earned_nanos", 0) != self._earned_nanos:
            self._earned_nanos = answer.get("earned_nanos", 0)
            say("earned", nanos=self._earned_nanos)
        for ended in self._stable.end_all_but({lease["epoch"] for lease in answer["leases"]}):
            say("lease", state="ended", lease=ended)
        if self._offer_state == "withdrawn" or answer["offer"]["node"] != node.node_id:
            self._withdrawn = True
            say("withdrawn", message="" if self._offer_state == "withdrawn" else "another machine has placed it")
            self._on_signal(signal.SIGTERM)
            return
        self._remeasurer.look(answer["offer"].get("measure"))
        self._reclaimer.reconcile(answer)
        self._noticed.hear(answer["leases"])
        for lease in self._lists.to_begin(answer, self._stable.serves):
            if not self._reclaimer.refuse(lease):
                self._begin(node, lease)
        self._stable.fill()

    def _machine(self, lease: Lease) -> dict[str, Any]:
        """What the lease's worker runs on and by which key it signs, signed by the provider's own key."""
        assert self._stable is not None
        units = int(lease["gpus"])
        facts = machine_facts(self._hardware.gpu, units, self._hardware.threads_per_unit * units)
        facts |= {"meter_key": self._stable.meter_key(lease["epoch"])}
        return sign_machine(lease["id"], lease["epoch"], facts, own_key(self._config.home))

    def _begin(self, node: RayNode, lease: Lease) -> None:
        assert self._stable is not None
        try:
            secrets = self._market.lease_secrets(lease["id"], epoch=lease["epoch"]) if lease.get("secrets") else {}
        except (MarketUnreachable, Refused) as problem:
            if isinstance(problem, MarketUnreachable) or problem.status == 404:  # the next list says what became of it
                self._gone(str(problem))
            else:
                self._end_lease(lease["id"], lease["epoch"], "failed_to_start", problem.message)
            return
        try:
            worker, pid = self._stable.assign(lease, secrets)
        except WorkerEnded as ended:
            self._end_lease(lease["id"], lease["epoch"], "failed_to_start", str(ended))
            say("lease", state="failed", lease=lease["id"], message=str(ended))
            return
        try:
            self._market.lease_started(
                lease["id"], epoch=lease["epoch"], worker=worker, pid=pid, node=node.node_id,
                meter_key=self._stable.meter_key(lease["epoch"]), machine=self._machine(lease),
            )  # fmt: skip
        except (MarketUnreachable, Refused) as refused:
            if isinstance(refused, MarketUnreachable) or refused.status >= MARKETS_TROUBLE:
                # The next list says "granted" again, and telling it twice changes nothing.
                self._stable.forget_started(lease["epoch"])
                self._gone(str(refused))
                return
            # Nobody may train on a lease that the market does not know as this worker's.
            self._stable.release(lease["epoch"])
            self._lists.end(lease["epoch"])
            if refused.code != "lease_ended":
                self._end_lease(lease["id"], lease["epoch"], "failed_to_start", refused.message)
            say("lease", state="refused", lease=lease["id"], message=refused.message)
            return
        say("lease", state="started", lease=lease["id"], job=lease["job"], worker=worker, pid=pid)

    def _report_death(self, node: RayNode, name: str) -> None:
        assert self._stable is not None
        died = self._stable.bury(name)
        if died is not None:
            # A node ends by itself when its head has been away for long, and takes its workers along.
            reason = died.reason if node.alive() else "head_lost"
            self._end_lease(died.lease, died.epoch, reason, died.detail)
            say("lease", state="died", lease=died.lease, reason=reason)
        self._stable.fill()

    def _end_lease(self, lease: str, epoch: int, reason: str, detail: str) -> None:
        self._lists.end(epoch)
        try:
            self._market.lease_ended(lease, epoch=epoch, reason=reason, detail=detail)
        except (MarketUnreachable, Refused) as problem:
            # The run reports the loss too, and the market's own timeouts are behind both.
            say("away" if isinstance(problem, MarketUnreachable) else "refused", message=str(problem))

    # leaving

    def _drain(self) -> None:
        assert self._stable is not None
        say("draining")
        if not self._withdrawn:
            self._close_offer()
        try:
            self._stable.drain(self._leaving_s())
        except HeadGone as gone:
            # The leases end all the same; what the workers had of the round in progress is lost, as in a death.
            say("away", message=str(gone))
        for lease, epoch in self._stable.serving():
            self._end_lease(lease, epoch, "drained", "the provider drained the offer")

    def _close_offer(self) -> None:
        try:
            self._market.change_offer(self._config.offer, "drain")
        except (MarketUnreachable, Refused) as problem:
            if isinstance(problem, Refused) and problem.code == "withdrawn":  # while this host was told to end
                say("withdrawn")
            else:
                say("away", message=str(problem))

    def _leaving_s(self) -> float:
        """How long leases have to leave: never beyond the time that the machine goes."""
        until_ms = self._config.until_ms
        return self._config.drain_s if until_ms is None else min(self._config.drain_s, max(0.0, until_ms / 1000 - time.time()))

    def _on_signal(self, *_: object) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._happen("stop", None)

    def _happen(self, kind: str, what: Any) -> None:
        self._happenings.put((kind, what))

    def _gone(self, message: str) -> None:
        if not self._away:
            self._away = True
            say("away", message=message)

    def _back(self) -> None:
        if self._away:
            self._away = False
            say("back")


if __name__ == "__main__":
    sys.exit(main())
