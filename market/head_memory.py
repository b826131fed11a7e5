"""A home's memory of markets' logs (heads.json), and how a market is held to it each time that it shows a head.

1. Ask for the head, and for the proof that it begins with the newest that was seen.
2. Hold it to the heads that others cosigned, which the market hands over with it.
3. Remember it, cosign it with this home's own key, hand the cosignature to the market.

Where something does not fit, nothing is remembered or cosigned, and the two signed heads are kept as `alarms`: they prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from market.homes import read_json, write_json
from market.witness import AnotherHistory, Seen, believe, hold, path_of, recall
from storage.cosignatures import CosignedHead, cosign
from storage.tree_heads import BadHead, TreeHead

MOST_ALARMS = 20
Json = dict[str, Any]


class ShowsLog(Protocol):
    """A market, as far as its log goes (market.client.Market)."""

    def log(self, *, old: int | None = None, new: int | None = None) -> Json:
        """GET /v1/log."""

    def cosign_head(self, head: Mapping[str, Any], *, public_key: str, at_s: int, signature: str) -> Json:
        """POST /v1/log/cosignatures."""


class HeadsUnreadable(Exception):
    """The file cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came of a look at a market's log. seen_before: records of the newest head that was known, None at the first."""

    head: TreeHead
    seen_before: int | None
    cosigned: tuple[CosignedHead, ...]


class HeadMemory:
    """heads.json in a home. own_key: the raw Ed25519 key that it cosigns with, asked for when it is needed."""

    def __init__(self, file: Path, own_key: Callable[[], bytes]) -> None:
        self.file = file
        self._own_key = own_key

    def seen(self, market: str) -> Seen | None:
        """What is remembered of a market's log. Raises HeadsUnreadable."""
        return self._parsed(self._read()["markets"].get(market))

    def alarms(self) -> list[Json]:
        """[{market, at_ms, told, heads}]: what did not fit, oldest first. Raises HeadsUnreadable."""
        return list(self._read()["alarms"])

    def look(self, market: ShowsLog, *, now_ms: int, size: int | None = None, public_key: str | None = None) -> Look:
        """Hold a market to what was seen; with `size`, to the head of so many records, which is not cosigned.

        public_key: the market's (hex), where it is known from elsewhere. Raises AnotherHistory, BadHead, NoSignatures,
        HeadsUnreadable, and what the market raises.
        """
        remembered = self._read()["markets"]  # before the market is asked: what others of this home see meanwhile is newer
        answer = market.log(new=size)
        head = TreeHead.parse(answer["head"])
        seen = self._parsed(remembered.get(head.market))
        try:
            now = _held(seen, market, head, public_key, newest=size is None)
            cosigned, now = _held_to_others(now, answer)
        except AnotherHistory as error:
            self.alarm(head.market, error, now_ms)
            raise
        self._write(markets={head.market: now.to_json()})
        if size is None and head.size:
            made = cosign(head, "", now_ms // 1000, self._own_key())
            market.cosign_head(head.to_json(), public_key=made.public_key, at_s=made.at_s, signature=made.signature)
        return Look(head, None if seen is None else seen.newest.size, cosigned)

    def alarm(self, market: str, error: AnotherHistory, now_ms: int) -> None:
        """Keep the evidence; the same sentence is kept once."""
        alarms = self.alarms()
        if all(one["told"] != str(error) for one in alarms):
            heads = [head.to_json() for head in error.heads]
            alarms.append({"market": market, "at_ms": now_ms, "told": str(error), "heads": heads})
            self._write(alarms=alarms[-MOST_ALARMS:])

    def _parsed(self, found: Json | None) -> Seen | None:
        try:
            return None if found is None else Seen.parse(found)
        except (KeyError, TypeError, ValueError) as error:
            raise HeadsUnreadable(f"{self.file}: {error}") from error

    def _read(self) -> Json:
        try:
            found = read_json(self.file)
            return {"markets": dict(found.get("markets", {})), "alarms": [dict(one) for one in found.get("alarms", [])]}
        except (OSError, ValueError, TypeError) as error:
            raise HeadsUnreadable(f"{self.file}: {error}") from error

    def _write(self, *, markets: Json | None = None, alarms: list[Json] | None = None) -> None:
        kept = self._read()
        content: Json = {"markets": {**kept["markets"], **(markets or {})}}
        if alarms or kept["alarms"]:
            content["alarms"] = alarms or kept["alarms"]
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.file, content, mode=0o600)


def _held(seen: Seen | None, market: ShowsLog, head: TreeHead, key: str | None, *, newest: bool) -> Seen:
    """The market proves that the smaller log is the beginning of the larger. newest: the head is that of all its records."""
    if seen is None or seen.newest.size == 0 or (newest and head.size < seen.newest.size):
        return believe(seen, head, [], key)
    if head.size < seen.newest.size:
        return recall(seen, head, path_of(market.log(old=head.size, new=seen.newest.size)))
    return believe(seen, head, path_of(market.log(old=seen.newest.size, new=head.size)), key)


def _held_to_others(seen: Seen, answer: Mapping[str, Any]) -> tuple[tuple[CosignedHead, ...], Seen]:
    """What others cosigned of the log whose newest head this is."""
    rows: Sequence[Mapping[str, Any]] = answer.get("cosigned", [])
    found = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise BadHead("a cosigned head is an object")
        one = CosignedHead.parse({name: value for name, value in row.items() if name != "path"})
        seen = hold(seen, one, path_of(row))
        found.append(one)
    return tuple(found), seen
