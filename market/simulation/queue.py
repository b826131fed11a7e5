"""Who waits in the simulated market, and whom a clearing could serve: those that it would come to first, of all that wait.

A clearing of the live market is shown every bid. Most of them could get nothing: their gang finds no room within their limit, or
others go first. Here sums say so before: how many units are free within a bid's limit, of machines of its class. Of the
bids that have room as many are shown as there are free units, and some more, in the order in which the live clearing
serves (market/serving.py): who is due by time of waiting, then by weight × limit × expected time. The first that is due and has no
room now is shown too, since free seats are kept for it.

Who got nothing of what was free gets nothing of it later: it is settled, and a clearing is not asked again for it until units
that it could take come free, or it becomes due, or seats are kept for another bid. So a bid that comes is cleared alone, beside
the one for which seats are kept, as in the live market (market/snapshots.py).

Machines of one model, region, memory and ask are one type: a class takes some types, and a limit those up to a price. So
everything is one look into a table of (class, types up to that price).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from market.simulation.supply import Machine
from market.simulation.waiting import Class
from market.worth import AGE_MS, MOST_AGE, DueRule
from storage.units import MS_PER_HOUR, NANOS_PER_USD
from storage.values import value

MORE_SHOWN: Final = 4
MOST_SHOWN: Final = 64
_DUE_FIRST: Final = 1e15
_NEVER_DUE: Final = 1e17
"""Later than any simulation; infinite is who needs nobody."""
_Array = np.ndarray[Any, Any]
_FIELDS: Final = ("need", "worth", "since", "due", "order", "tried", "settled", "room", "there")
_DUE, _TRIED, _SETTLED, _ROOM, _THERE = (_FIELDS.index(name) for name in ("due", "tried", "settled", "room", "there"))
_NEVER: Final = -1.0


@value
class Wanted:
    """What a job wants now. `since_ms`: from when on it waits; `essential`: its gang is not whole, so that waiting counts;
    `settles`: nothing but free units, time and who goes before it decides whether it gets something."""

    job: str
    kind: Class
    need: int
    limit_nanos: int
    expected_ms: int
    since_ms: int
    essential: bool = True
    due_at_once: bool = False
    settles: bool = True


class Queue:
    """Jobs that want workers, and how many units of each type are there and free."""

    def __init__(self, machines: Sequence[Machine], due_rule: DueRule | None = None) -> None:
        self._due_rule = due_rule or DueRule()
        types = sorted({(one.ask_nanos, one.gpu, one.region, one.vram_gib) for one in machines})
        self._types = types
        self._asks = [one[0] for one in types]
        place = {one: at for at, one in enumerate(types)}
        self._type_of = {one.id: place[one.ask_nanos, one.gpu, one.region, one.vram_gib] for one in machines}
        self._free = np.zeros(len(types), np.int64)
        self._there = np.zeros(len(types), np.int64)
        self._free_units = 0
        self._kinds: dict[Class, int] = {}
        self._accepts = np.zeros((len(types), 0), bool)
        self._rows: _Array = np.zeros((len(_FIELDS), 64), np.float64)
        self._takes: _Array = np.zeros((len(types), 64), bool)
        """Who takes units of which type."""
        self._jobs: list[str] = []
        self._slots: dict[str, int] = {}
        self._number = 0
        self._round = 0
        self._left_out = True
        """Whether somebody who fits may not have been shown in this clearing."""
        self._restless: set[str] = set()
        self.kept_for: str | None = None
        """For whom free seats were kept in the last clearing."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: str) -> bool:
        return job in self._slots

    def listed(self, machine: Machine, gpus: int) -> None:
        """So many units of it are there now, all free; or, below zero, are gone."""
        at = self._type_of[machine.id]
        self._there[at] += gpus
        self._rows[_THERE, : len(self._jobs)][self._takes[at, : len(self._jobs)]] += gpus
        self.freed(machine.id, gpus)
        self.unsettle()

    def freed(self, machine: str, gpus: int) -> None:
        """So many units of it are free now; below zero: are let. Who could take what comes free is settled no longer; nobody is
        if seats are kept, and other ones by that."""
        at, count = self._type_of[machine], len(self._jobs)
        self._free[at] += gpus
        self._free_units += gpus
        takes, room = self._takes[at, :count], self._rows[_ROOM, :count]
        if gpus == 1:
            room += takes
        else:
            room += takes * gpus
        if gpus > 0:
            self._left_out = True
            if self.kept_for is not None and takes[self._slots[self.kept_for]]:
                self.unsettle()
            else:
                np.putmask(self._rows[_SETTLED, :count], takes, _NEVER)

    def add(self, wanted: Wanted) -> None:
        """The job wants this, and no longer what it wanted before."""
        slot = self._slots.get(wanted.job)
        if wanted.job == self.kept_for:
            self.unsettle()
        if slot is None:
            slot = len(self._jobs)
            self._slots[wanted.job] = slot
            self._jobs.append(wanted.job)
            if slot == self._rows.shape[1]:
                self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)), axis=1)
                self._takes = np.concatenate((self._takes, self._takes), axis=1)
        self._number += 1
        self._left_out = True
        after_ms = 0 if wanted.due_at_once else self._due_rule.after_ms(wanted.expected_ms)
        due_ms = _NEVER_DUE if after_ms is None else wanted.since_ms + after_ms
        worth = wanted.limit_nanos / NANOS_PER_USD * wanted.expected_ms / MS_PER_HOUR
        kind, up_to = self._kind(wanted.kind), bisect_right(self._asks, wanted.limit_nanos)
        takes = self._accepts[:up_to, kind]
        self._takes[:up_to, slot], self._takes[up_to:, slot] = takes, False
        self._rows[:, slot] = (
            wanted.need, worth, wanted.since_ms, due_ms if wanted.essential else np.inf, self._number, 0, _NEVER,
            takes @ self._free[:up_to], takes @ self._there[:up_to],
        )  # fmt: skip
        (self._restless.discard if wanted.settles else self._restless.add)(wanted.job)

    def discard(self, job: str) -> None:
        """The job wants nothing more."""
        slot = self._slots.pop(job, None)
        if slot is None:
            return
        self._restless.discard(job)
        if job == self.kept_for:
            self.unsettle()
        last = self._jobs.pop()
        if last != job:
            self._jobs[slot] = last
            self._slots[last] = slot
            for rows in (self._rows, self._takes):
                rows[:, slot] = rows[:, len(self._jobs)]

    def begin(self) -> None:
        """A clearing begins: nobody has been shown yet."""
        self._round += 1
        self._left_out = True

    def shown(self, now_ms: int) -> list[str]:
        """Whom to show next, none of them twice in one clearing; empty: nobody who was not shown could get anything."""
        count = len(self._jobs)
        if not count or not self._free_units or not self._left_out:
            return []
        need, worth, since, due_ms, order, tried, settled_ms, room, there = self._rows[:, :count]
        fits = (room >= need) & (tried != self._round)
        found = fits.nonzero()[0]
        if np.count_nonzero(_is_settled(settled_ms.take(found), due_ms.take(found), now_ms)) == len(found):
            return []
        most = min(MOST_SHOWN, self._free_units + MORE_SHOWN)
        self._left_out = len(found) > most
        if self._left_out:
            its_since, its_due_ms = since.take(found), due_ms.take(found)
            age = np.minimum(np.maximum(now_ms - its_since, 0), MOST_AGE * AGE_MS) / AGE_MS
            weight = np.where(np.isinf(its_due_ms), 1.0, 1.0 + age)
            key = np.where(now_ms >= its_due_ms, its_since - _DUE_FIRST, -worth[found] * weight)
            found = found[np.argpartition(key, most - 1)[:most]]
        self._rows[_TRIED, found] = self._round
        names = [self._jobs[slot] for slot in found.tolist()]
        kept = ((due_ms <= now_ms) & (there >= need) & ~fits).nonzero()[0]
        if len(kept):
            its_since = since.take(kept)
            longest = kept[its_since == its_since.min()]
            names.append(self._jobs[longest[order[longest].argmin()]])
        return names

    def unsettled(self, names: list[str], now_ms: int) -> list[str]:
        """Of those that `shown` named, whom to clear: who is not settled, and the one for whom seats are kept. Empty: nobody."""
        if self.kept_for is not None and self.kept_for not in names:
            self.unsettle()
        slots = np.array([self._slots[name] for name in names], np.intp)
        settled = _is_settled(self._rows[_SETTLED].take(slots), self._rows[_DUE].take(slots), now_ms).tolist()
        if False not in settled:
            return []
        return [name for name, done in zip(names, settled, strict=True) if not done or name == self.kept_for]

    def note(self, empty: Iterable[str], kept_for: str | None, now_ms: int) -> None:
        """These got nothing in a clearing that looked at all of them, and that kept free seats for a job."""
        if kept_for != self.kept_for:
            self.unsettle()
            self.kept_for = kept_for
        self._rows[_SETTLED, [self._slots[job] for job in empty if job not in self._restless]] = now_ms

    def unsettle(self) -> None:
        """Everybody who waits may get something now."""
        self._rows[_SETTLED] = _NEVER
        self.kept_for = None

    def _kind(self, kind: Class) -> int:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = len(self._kinds)
            self._accepts = np.column_stack((self._accepts, [_takes(kind, one) for one in self._types]))
        return found


def _is_settled(settled_ms: _Array, due_ms: _Array, now_ms: int) -> _Array:
    """Whether those that were settled then still are, and have not become due since."""
    found: _Array = (settled_ms != _NEVER) & ((due_ms > now_ms) | (due_ms <= settled_ms))
    return found


def _takes(kind: Class, machine: tuple[int, str, str, float]) -> bool:
    models, regions, vram_gib = kind
    _, model, region, memory = machine
    return (not models or model in models) and (not regions or region in regions) and memory >= vram_gib


