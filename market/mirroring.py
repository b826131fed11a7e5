"""Mirrors of the journal, kept by a thread each beside the market (storage/mirrors.py says what is copied, and how).

A thread looks at how far the journal is durable, copies what is new, and looks again `every_ms` later. The market never waits for
it, but for synchronous ones, at the end of each batch (`confirm`). A mirror that does not answer is tried again, after pauses up to `LONGEST_PAUSE_S`; one that is another market's, or that
contradicts the journal, is left alone until the market starts anew. A second thread tidies and puts the home's keys, so that
copying need not wait for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from market.homes import Home, write_json
from storage.home_files import BackupError
from storage.journal_format import Durable, JournalCorrupt
from storage.mirror_places import MirrorPlace, Mirrors, MirrorsError, open_place, read_mirrors, read_passphrase
from storage.mirrored_homes import HOME, State, seal_home, state_of_home
from storage.mirrors import JOINED_PARTS, Mirror, MirrorGone, MirrorRefused
from storage.object_stores import ObjectStoreError

log = logging.getLogger("torg.mirror")

STATES: Final = ("starting", "following", "away", "refused")
LONGEST_PAUSE_S: Final = 30.0
HOME_EVERY_S: Final = 10.0
CONFIRM_S: Final = 5.0
"""How long a batch waits for synchronous mirrors before the market takes no more work."""
THERE_S: Final = 10.0
"""How often a bucket is asked whether it still is this mirror; a folder is before each copy."""
LAST_COPY_S: Final = 5.0
"""How long an end of the market waits for the last copy."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a mirror stands. `state`: starting, following, away or refused; `lag_ms`: since when it has lacked something, at most."""

    place: str
    sync: bool
    state: str
    records: int
    lag_records: int
    lag_bytes: int
    lag_ms: int
    has_keys: bool
    error: str | None

    def to_json(self) -> dict[str, Any]:
        """As /v1/status shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Follower:
    """Keeps one mirror. `durable` says how far the journal is, `begun` is called once the mirror is claimed."""

    def __init__(
        self, place: MirrorPlace, folder: Path, market: Callable[[], str], durable: Callable[[], Durable], *, every_s: float,
        seal: Callable[[], bytes] | None = None, home_state: Callable[[], State] = lambda: (), begun: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._place, self._folder, self._market, self._durable = place, folder, market, durable
        self._every_s, self._seal, self._home_state, self._begun = every_s, seal, home_state, begun
        self._mirror: Mirror | None = None
        self._state = "starting"
        self._error: str | None = None
        self._has_keys = False
        self._sealed: State | None = None
        self._sealed_s = 0.0
        self._whole_s = time.monotonic()
        """When all that was durable was known to be in the mirror."""
        self._there_s = 0.0
        self._over = threading.Event()
        self._wake = threading.Event()
        self._told = threading.Condition()
        self._chores: threading.Thread | None = None
        self._thread = threading.Thread(target=self._follow, name=f"mirror {place.place}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Copy once more and end; waits `LAST_COPY_S` at most."""
        self._over.set()
        self._wake.set()
        self._thread.join(LAST_COPY_S)
        if self._thread.is_alive() or self.standing().lag_records:
            log.warning("%s: the market ends and this mirror does not have all of its journal", self._place.place)

    @property
    def sync(self) -> bool:
        return self._place.sync

    def wake(self) -> None:
        """Copy now."""
        self._wake.set()

    def has(self, records: int, until_s: float) -> bool:
        """Whether so many records are in the mirror, by `until_s` (monotonic); at once False while it is away."""
        with self._told:
            wait_s = max(0.0, until_s - time.monotonic())
            self._told.wait_for(lambda: self._records() >= records or self._state in ("away", "refused"), wait_s)
            return self._records() >= records

    def _records(self) -> int:
        return self._mirror.records if self._mirror is not None else 0

    def standing(self) -> Standing:
        """Any thread may ask."""
        durable, mirror = self._durable(), self._mirror
        records = self._records()
        behind = max(0, durable.records - records)
        lag_ms = round(1000 * (time.monotonic() - self._whole_s)) if behind else 0
        lag_bytes = mirror.behind_bytes(durable) if mirror is not None and behind else 0
        return Standing(self._place.place, self.sync, self._state, records, behind, lag_bytes, lag_ms, self._has_keys, self._error)

    def _follow(self) -> None:
        pause_s = self._every_s
        while True:
            last = self._over.is_set()
            try:
                self._copy()
                pause_s = self._every_s
            except MirrorRefused as refused:
                self._refuse(refused)
                return
            except JournalCorrupt as error:
                self._refuse(MirrorRefused(f"the journal itself cannot be read: {error}", "`torg books verify` says what of it is whole"))
                return
            except (MirrorGone, ObjectStoreError, OSError, BackupError) as error:
                self._note_away(error)
                pause_s = min(max(2 * pause_s, self._every_s), max(LONGEST_PAUSE_S, self._every_s))
            if last:
                return
            self._wake.wait(pause_s)
            self._wake.clear()

    def _copy(self) -> None:
        seen_s, durable = time.monotonic(), self._durable()
        if self._mirror is None:
            mirror = Mirror(open_place(self._place), self._folder, self._market())
            mirror.open(durable, begun=self._place.begun)
            self._begun()
            self._place = replace(self._place, begun=True)
            self._mirror = mirror
        if durable.records > self._mirror.records:
            self._see_that_it_is_there(self._mirror)
            self._mirror.ship(durable)
        self._whole_s = seen_s
        if self._state != "following":
            log.info("%s has the journal up to record %s", self._place.place, durable.records)
        self._tell("following", None)
        self._do_chores(self._mirror, durable)

    def _see_that_it_is_there(self, mirror: Mirror) -> None:
        if "://" not in self._place.place or time.monotonic() > self._there_s + THERE_S:
            mirror.check_there()
            self._there_s = time.monotonic()

    def _tell(self, state: str, error: str | None) -> None:
        with self._told:
            self._state, self._error = state, error
            self._told.notify_all()

    def _do_chores(self, mirror: Mirror, durable: Durable) -> None:
        if self._chores is not None and self._chores.is_alive():
            return
        keys = self._seal is not None and (self._sealed is None or time.monotonic() > self._sealed_s + HOME_EVERY_S)
        untidy = mirror.closed or mirror.untidy > JOINED_PARTS
        if not (keys or untidy):
            return

        def chores() -> None:
            try:
                if keys:
                    self._put_home(mirror)
                if untidy:
                    mirror.tidy(durable)
            except (MirrorRefused, ObjectStoreError, OSError, BackupError, JournalCorrupt) as error:
                log.warning("%s: keys or order of this mirror have to wait: %s", self._place.place, error)

        self._chores = threading.Thread(target=chores, name=f"chores {self._place.place}", daemon=True)
        self._chores.start()

    def _put_home(self, mirror: Mirror) -> None:
        assert self._seal is not None, "there is a passphrase"
        self._sealed_s, state = time.monotonic(), self._home_state()
        if state != self._sealed:
            mirror.store.replace(HOME, self._seal())
            self._sealed, self._has_keys = state, True

    def _refuse(self, refused: MirrorRefused) -> None:
        self._tell("refused", f"{refused.message} ({refused.remedy})")
        log.error("not mirrored any more: %s", self._error)

    def _note_away(self, error: Exception) -> None:
        if self._state != "away":
            log.error("the mirror is away and is tried again: %s", error)
        self._tell("away", str(error))


class Mirroring:
    """All mirrors of a market."""

    def __init__(self, home: Home, mirrors: Mirrors, market: Callable[[], str], durable: Callable[[], Durable], now_ms: Callable[[], int]) -> None:
        """Raises MirrorsError where the passphrase cannot be read."""
        self.every_ms = mirrors.every_ms
        self._home, self._mirrors = home, mirrors
        self._turn = threading.Lock()
        secret = read_passphrase(Path(mirrors.passphrase_file)) if mirrors.passphrase_file else None
        seal = None if secret is None else lambda: seal_home(home.root, market(), secret, now_ms())
        self._followers = [
            Follower(
                place, home.journal, market, durable, every_s=mirrors.every_ms / 1000, seal=seal,
                home_state=lambda: state_of_home(home.root), begun=lambda place=place: self._note_begun(place.place),  # type: ignore[misc]
            )
            for place in mirrors.places
        ]  # fmt: skip

    def start(self) -> None:
        for one in self._followers:
            one.start()

    @property
    def synchronous(self) -> bool:
        """Whether there is one whose confirmation the market waits for."""
        return any(one.sync for one in self._followers)

    def confirm(self, records: int, wait_s: float = CONFIRM_S) -> bool:
        """Whether every synchronous mirror has so many records; waits that long at most, and not for one that is away."""
        waited_for = [one for one in self._followers if one.sync and not one.has(records, 0)]
        for one in waited_for:
            one.wake()
        until_s = time.monotonic() + wait_s
        return all(one.has(records, until_s) for one in waited_for)

    def why(self) -> str:
        """What keeps the synchronous mirrors."""
        found = [one for one in self.standings() if one.sync and one.lag_records]
        return "; ".join(one.error or f"{one.place} does not answer in time" for one in found) or "no mirror lacks anything"

    def close(self) -> None:
        """Every mirror gets a last copy, all at once."""
        ending = [threading.Thread(target=one.close) for one in self._followers]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def standings(self) -> list[Standing]:
        return [one.standing() for one in self._followers]

    def _note_begun(self, place: str) -> None:
        """From now on an empty place is no mirror of ours."""
        with self._turn:
            try:  # somebody may have named others, or an archive, since the start
                known = read_mirrors(self._home.root) if self._home.mirrors_file.exists() else self._mirrors
            except MirrorsError as error:
                log.error("that %s is a mirror of this market now is not written down: %s", place, error)
                return
            places = tuple(replace(one, begun=True) if one.place == place else one for one in known.places)
            if places != known.places:
                write_json(self._home.mirrors_file, replace(known, places=places).to_json(), mode=0o600)
