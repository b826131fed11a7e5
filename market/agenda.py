"""Which offers a tick has to look at: those to which something happened, and those whose time has come. Pure.

Looking at all of them gives the same decisions in the same order, which a test compares; of twenty thousand offers nearly all
have nothing to do. Times are kept in parts of half a second; an offer that is looked at too soon is put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from market.schedules import next_change
from storage.units import MS_PER_DAY

if TYPE_CHECKING:
    from market.state import OfferRecord, State

PART_MS: Final = 500
STIRRING: Final = frozenset(
    {
        "offer_placed", "offer_terms", "offer_changed", "offer_held", "offer_window", "offer_heard", "measurement_asked",
        "offer_measured", "lease_granted", "lease_ended", "job_state",
    }
)  # fmt: skip
"""Events after which an offer may have something else to do, or at another time."""


class Calendar:
    """Names by the time at which they are wanted; the newest time of each counts."""

    __slots__ = ("_at", "_next", "_parts")

    def __init__(self) -> None:
        self._at: dict[str, int] = {}
        self._parts: dict[int, list[tuple[int, str]]] = {}
        self._next: list[int] = []

    def put(self, name: str, at_ms: int | None) -> None:
        """The name is wanted then and not before; None: at no time."""
        if at_ms is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at_ms:
            self._at[name] = at_ms
            self._append(at_ms, name)

    def take(self, now_ms: int) -> list[str]:
        """Those whose time has come; each is forgotten until it is put again."""
        found: list[str] = []
        later: list[tuple[int, str]] = []
        while self._next and self._next[0] <= now_ms // PART_MS:
            for at_ms, name in self._parts.pop(heappop(self._next)):
                if self._at.get(name) != at_ms:
                    continue  # it was put at another time since
                if at_ms > now_ms:
                    later.append((at_ms, name))
                else:
                    del self._at[name]
                    found.append(name)
        for at_ms, name in later:
            self._append(at_ms, name)
        return found

    def _append(self, at_ms: int, name: str) -> None:
        part = at_ms // PART_MS
        if part not in self._parts:
            self._parts[part] = []
            heappush(self._next, part)
        self._parts[part].append((at_ms, name))


class Agenda:
    """Of one exchange, as long as it lives. `others` is for what is rarely due, `silence` for signs of life that do not come."""

    __slots__ = ("_order", "_prices", "_state", "others", "silence", "stirred", "unmeasured")

    def __init__(self, state: State) -> None:
        self._state = state
        self._order = {name: place for place, name in enumerate(state.offers)}
        self.others = Calendar()
        self.silence = Calendar()
        self.stirred: dict[str, None] = dict.fromkeys(state.offers)
        self.unmeasured: dict[str, None] = {}
        """Offers that were looked at by ticks without a random number."""
        self._prices: dict[str, tuple[tuple[Any, ...], int]] = {}

    def of(self, state: State) -> bool:
        """Whether it is of this state."""
        return self._state is state

    def note(self, event: dict[str, Any]) -> None:
        """Something of STIRRING has happened, and is in the state already."""
        if event["type"] == "job_state":
            if event["state"] == "done":  # what it saw of its machines may ask for a measurement
                job = self._state.jobs[event["job"]]
                self.stirred.update((self._state.leases[lease].offer, None) for lease in job.leases)
            return
        self.stirred[event["offer"] if "offer" in event else self._state.leases[event["lease"]].offer] = None

    def begin(self, now_ms: int) -> list[str]:
        """Whom the tick of this time looks at for anything but silence, as the state has them, oldest first."""
        names = self.in_order([*self.stirred, *self.others.take(now_ms)])
        self.stirred.clear()
        self.unmeasured.update(dict.fromkeys(names))
        return names

    def in_order(self, names: Iterable[str]) -> list[str]:
        """As the state has them, oldest first; new ones are named in the order in which they came."""
        order, found = self._order, dict.fromkeys(names)
        for name in found:
            order.setdefault(name, len(order))
        return sorted(found, key=order.__getitem__)

    def price_change_ms(self, offer: OfferRecord, now_ms: int) -> int | None:
        """When its price changes by its hours; to look for that takes so long that it is remembered."""
        terms = offer.terms
        if not terms.prices:
            return None
        said = (terms.prices, terms.zone, offer.base_nanos)
        known = self._prices.get(offer.id)
        if known is None or known[0] != said or known[1] <= now_ms:
            found = next_change(*said, now_ms)
            known = self._prices[offer.id] = (said, now_ms + MS_PER_DAY if found is None else found[0])
        return known[1]
