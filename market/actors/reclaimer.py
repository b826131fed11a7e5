"""Takes units of a provider's machine back from those who rent them, within the notice that the offer promises.

1. The wish is written down, so that it outlasts this process; the market hears of it beside what follows.
2. The workers that must go leave at their next boundary, or end their command; after the notice they are ended.
3. Every process of them is gone, and with it what it held of cards and memory: the owner has the machine.
4. The market hears that the leases are over (`preempted`), at once or when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from market.actors.control import Asked
from market.actors.host_config import HostConfig
from market.actors.stable import Stable
from market.client import Market, MarketUnreachable, Refused
from market.idling import Verdict
from market.lease_lists import Lease, LeaseLists
from market.provider_control import read_holds, write_holds
from market.reclaiming import Hold, Source, choose

Json = dict[str, Any]
Tell = Callable[..., None]

TOLD_S = 1.0
TAKEN_BACK = "the provider took the machine back"


class Reclaimer:
    """See the module. Used by the host's main thread alone. `say` is a status line of the host's."""

    def __init__(self, config: HostConfig, market: Market, stable: Stable, lists: LeaseLists, say: Tell) -> None:
        self._config, self._market, self._stable, self._lists, self._say = config, market, stable, lists, say
        self._holds = read_holds(config.home)
        self._ended: set[int] = set()
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="tell")
        self._telling: list[tuple[Hold, Future[int | None]]] = []
        self._shown = Hold()
        self._cards: frozenset[str] = frozenset()
        stable.hold(self._holds.now.gpus)

    @property
    def _units(self) -> int:
        return self._stable.hardware.units

    @property
    def notice_s(self) -> float:
        """How long a lease has to leave what it has, as the offer promises."""
        return self._config.notice_ms / 1000

    @property
    def now(self) -> Hold:
        """What is held back now."""
        return self._holds.now

    def answer(self, asked: Asked) -> None:
        """What the owner asks for on this machine, step by step."""
        wish = asked.request
        if wish.get("ask") == "reclaim":
            hold = Hold(int(wish.get("gpus") or self._units), "reclaim", str(wish.get("why", "")), wish.get("until_ms"))
            notice_s = min(float(wish.get("notice_s", self.notice_s)), self.notice_s)
            asked.end("free", **self.take("owner", hold, asked.tell, notice_s=notice_s))
        elif wish.get("ask") == "release":
            asked.end("released", **self.release("owner"))
        elif wish.get("ask") == "status":
            asked.end("status", **self.status())
        else:
            asked.end("unknown")

    def take(
        self, source: Source, hold: Hold, tell: Tell, *, notice_s: float, evict: bool = True, cards: Collection[str] = (),
    ) -> Json:  # fmt: skip
        """Hold units back and, with `evict`, end what sits there; {gpus, seconds, leases, told}, once they are free.

        The same again answers at once. `tell` hears of the steps. `cards`: uuids of those that must be among them, of the
        watch alone.
        """
        if source == "idle":
            self._cards = frozenset(cards)
        began = time.monotonic()
        self._holds.set(source, replace(hold, gpus=min(hold.gpus, self._units)))
        going = self._going() if evict else []
        telling: list[Future[int | None]] = [self._tell_hold([lease["id"] for lease in going])]
        write_holds(self._config.home, self._holds)
        for lease in going:
            tell("notice", lease=lease["id"], job=lease["job"], gpus=lease["gpus"], notice_s=notice_s)
        if going:
            left = self._stable.leave([lease["epoch"] for lease in going], notice_s)
            tell("left", leases=sorted(left))
        self._stable.end([lease["epoch"] for lease in going])
        self._stable.hold(self.now.gpus, self._cards)
        seconds = round(time.monotonic() - began, 3)
        for lease in going:
            self._say("lease", state="preempted", lease=lease["id"], reason="preempted")
            telling.append(self._tell_end(lease))
        self._show()
        self._stable.fill()
        done = wait(telling, TOLD_S)
        told = not done.not_done and all(one.result() is not None for one in done.done)
        return {"gpus": self.now.gpus, "seconds": seconds, "leases": [lease["id"] for lease in going], "told": told}

    def release(self, source: Source) -> Json:
        """Let the units again, as far as nobody else holds them; {gpus, why, told}: what is still held."""
        self._holds.set(source, Hold())
        if source == "idle":
            self._cards = frozenset()
        return self._changed()

    def watched(self, verdict: Verdict, uuids: Collection[str]) -> None:
        """What the watch of this machine says: held units are taken back as the owner would, others let again."""
        if verdict.units:
            hold = Hold(verdict.units, verdict.reason, verdict.why)
            self.take("idle", hold, lambda event, **fields: None, notice_s=self.notice_s, cards=uuids)
        else:
            self.release("idle")

    def status(self) -> Json:
        """{offer, units, leased, held, leases}: as this machine knows them."""
        leases = [{name: lease[name] for name in ("id", "job", "gpus")} for lease in self._stable.leases()]
        config = self._config
        told = {"offer": config.offer, "units": self._units, "leased": self._stable.taken, "until_ms": config.until_ms}
        return {**told, "held": self.now.as_json(), "leases": leases}

    def pass_time(self, now_ms: int) -> None:
        """Release what was held until now."""
        if self._holds.pass_time(now_ms):
            self._changed()

    def reconcile(self, answer: Mapping[str, Any]) -> None:
        """Bring a list of leases, the market's word on the hold and ours together, before any lease begins."""
        for lease in answer["leases"]:
            if lease["epoch"] in self._ended:  # it was ended while the market was away
                self._tell_end(lease)
        self._ended &= {lease["epoch"] for lease in answer["leases"]}
        if not self._settle():
            return
        before = self.now
        self._holds.heard(answer["offer"]["held"], answer["version"])
        if self.now != before:  # somebody said so at the market
            self.take("owner", self.now, lambda event, **fields: None, notice_s=self.notice_s)
        elif self._holds.untold:
            self._tell_hold([])

    def refuse(self, lease: Lease) -> bool:
        """Whether a lease that was granted meanwhile has no room any more; it is given back then."""
        if lease["gpus"] <= self._units - self.now.gpus - self._stable.taken:
            return False
        self._lists.end(lease["epoch"])
        self._say("lease", state="refused", lease=lease["id"], message="the owner holds the machine")
        self._tell_end(lease)
        return True

    def close(self) -> None:
        """Tell what is not told yet, if the market is there."""
        self._teller.shutdown(wait=True)

    def _going(self) -> Sequence[Lease]:
        missing = self._stable.taken + self.now.gpus - self._units
        leases = {lease["epoch"]: lease for lease in self._stable.leases()}
        must = self._stable.on_cards(self._cards)
        chosen = choose(((epoch, lease["gpus"]) for epoch, lease in leases.items()), missing, must)
        for epoch in chosen:
            self._lists.end(epoch)
        return [leases[epoch] for epoch in chosen]

    def _changed(self) -> Json:
        telling = self._tell_hold([])
        write_holds(self._config.home, self._holds)
        self._stable.hold(self.now.gpus, self._cards)
        self._stable.fill()
        self._show()
        told = bool(wait([telling], TOLD_S).done) and telling.result() is not None
        return {"gpus": self.now.gpus, "why": self.now.why, "told": told}

    def _show(self) -> None:
        if self.now != self._shown:
            self._shown = self.now
            self._say("paused" if self.now.gpus else "resumed", gpus=self.now.gpus, message=self.now.why)

    def _tell_hold(self, leases: Sequence[str]) -> Future[int | None]:
        hold = self.now

        def tell() -> int:
            answer = self._market.hold_offer(
                self._config.offer, hold.gpus, reason=hold.reason, why=hold.why, until_ms=hold.until_ms, leases=leases
            )
            return int(answer["version"])

        telling = self._teller.submit(self._try, tell)
        self._telling.append((hold, telling))
        return telling

    def _settle(self) -> bool:
        """Note what the market has heard of us; whether nothing is under way to it."""
        while self._telling and self._telling[0][1].done():
            hold, telling = self._telling.pop(0)
            version = telling.result()
            if version is not None:
                self._holds.tell(hold, version)
                write_holds(self._config.home, self._holds)
        return not self._telling

    def _tell_end(self, lease: Lease) -> Future[int | None]:
        self._ended.add(lease["epoch"])

        def tell() -> int:
            self._market.lease_ended(lease["id"], epoch=lease["epoch"], reason="preempted", detail=TAKEN_BACK)
            return 0

        return self._teller.submit(self._try, tell)

    def _try(self, tell: Callable[[], int]) -> int | None:
        """None where the market has not heard it: the next list of leases leads to another try."""
        try:
            return tell()
        except (MarketUnreachable, Refused) as problem:
            self._say("untold", message=str(problem))
            return None
