"""What an owner takes back of its machine, as its own host keeps it. Pure.

Two may want units back: the owner by word (`torg provider reclaim`) and the watch that offers a machine while it is idle.
The larger wish counts. The host's word is the truth, also while the market is away; what the market says that was not
told to it by this host (an operator, or a time that is over) is the owner's newest word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Source = Literal["owner", "idle"]


@dataclass(frozen=True, slots=True)
class Hold:
    """`gpus` units that are not for rent, until `until_ms` since the epoch if that is said; 0 units are nothing.

    `reason` is for programs (market/holding.py), `why` a sentence for people.
    """

    gpus: int = 0
    reason: str = ""
    why: str = ""
    until_ms: int | None = None

    def as_json(self) -> Json:
        """As the market tells it, too."""
        return asdict(self)


NOTHING = Hold()


@dataclass(slots=True)
class Holds:
    """Who wants how much back. `told` is what the market knows as of `version` of its offer; None before it said so."""

    wishes: dict[Source, Hold] = field(default_factory=dict)
    told: Hold | None = None
    version: int = 0

    @property
    def now(self) -> Hold:
        """The hold that counts: the larger one, and of equal ones the owner's."""
        return max((self.wishes.get(source, NOTHING) for source in ("owner", "idle")), key=lambda hold: hold.gpus)

    @property
    def untold(self) -> bool:
        """Whether the market is to hear of it."""
        return self.told != self.now

    def set(self, source: Source, hold: Hold) -> None:
        """Another wish of one of the two."""
        self.wishes[source] = hold

    def pass_time(self, now_ms: int) -> bool:
        """Drop wishes whose time is over; whether there was one."""
        over = [source for source, hold in self.wishes.items() if hold.until_ms is not None and hold.until_ms <= now_ms]
        for source in over:
            del self.wishes[source]
        return bool(over)

    def tell(self, hold: Hold, version: int) -> None:
        """The market has heard this of us."""
        if version >= self.version:
            self.told, self.version = hold, version

    def heard(self, said: Mapping[str, Any], version: int) -> None:
        """What the market says is held, in a list of that version. What this host has not said is the owner's word, spoken
        elsewhere; an older list than our last word says nothing.
        """
        if version < self.version:
            return
        hold = Hold(int(said["gpus"]), str(said["reason"]), str(said["why"]), said["until_ms"])
        if self.told is not None and hold not in (self.told, self.now):
            self.wishes["owner"] = hold
        self.told, self.version = hold, version

    def as_json(self) -> Json:
        """What outlasts a restart: the owner's wish, and what the market knows."""
        told = None if self.told is None else self.told.as_json()
        return {"owner": self.wishes.get("owner", NOTHING).as_json(), "told": told, "version": self.version}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Holds:
        """What `as_json` gave. Raises KeyError or TypeError for anything else."""
        told = found["told"]
        return cls({"owner": Hold(**found["owner"])}, None if told is None else Hold(**told), int(found["version"]))


def choose(leases: Iterable[tuple[int, int]], units: int, must: Collection[int] = ()) -> list[int]:
    """Which leases, as (epoch, units), must go so that that many units come free: those that `must` in any case, then the
    newest first, since they lose least, and none that the others make needless. All of them when they do not suffice.
    """
    offered = sorted(leases, reverse=True)
    chosen = [lease for lease in offered if lease[0] in must]
    for lease in offered:
        if sum(gpus for _, gpus in chosen) >= units:
            break
        if lease not in chosen:
            chosen.append(lease)
    for lease in list(chosen):
        if lease[0] not in must and sum(gpus for _, gpus in chosen) - lease[1] >= units:
            chosen.remove(lease)
    return [epoch for epoch, _ in chosen]
