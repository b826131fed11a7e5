"""The market's door for our own actors on the head node: `market.client` with the plane's key, read from the home."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from market.client import Market, MarketUnreachable, Refused
from market.homes import Home
from trainers.actors.wiring import DoorAway, DoorRefused

Json = dict[str, Any]
Answer = TypeVar("Answer")

# Answers that say "not now" rather than "no". What a run reports is held back while the market's disk is full, and is
# told when there is room again; an upload is not: a checkpoint that is refused is made anew from a newer round.
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504, 507)
_UPLOADS_PASSING = tuple(status for status in _PASSING_STATUSES if status != 507)


class HomeDoor:
    """A `trainers.actors.wiring.Door`. Pickles as (url, home): no key ever enters Ray's object or actor tables."""

    def __init__(self, url: str, home: str) -> None:
        self._url = url
        self._home = home
        self._market: Market | None = None

    def __reduce__(self) -> tuple[type[HomeDoor], tuple[str, str]]:
        return HomeDoor, (self._url, self._home)

    def announce_ray(self, address: str, token_path: str) -> Json:
        return self._ask(lambda market: market.announce_ray(address, token_path))

    def runs(self, *, wait_s: float, seen: str | int | None) -> Json:
        return self._ask(lambda market: market.runs(wait_s=wait_s, seen=seen))

    def directive(self, job: str, *, wait_s: float, seen: str | int | None) -> Json:
        return self._ask(lambda market: market.directive(job, wait_s=wait_s, seen=seen))

    def read_blob(self, digest: str) -> bytes:
        return self._ask(lambda market: market.read_blob(digest))

    def upload(self, content: bytes | Path) -> str:
        return self._ask(lambda market: market.upload(content), _UPLOADS_PASSING)

    def missing(self, digests: Sequence[str]) -> list[str]:
        return self._ask(lambda market: market.missing_blobs(digests))

    def upload_all(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        return self._ask(lambda market: market.upload_all(blobs), _UPLOADS_PASSING)

    def report_round(self, report: Mapping[str, Any]) -> Json:
        return self._ask(lambda market: market.report_round(report))

    def report_readings(
        self,
        job: str,
        *,
        run_pid: int,
        readings: Sequence[Mapping[str, Any]],
        evaluated: Sequence[Mapping[str, Any]],
        lost: Sequence[Mapping[str, Any]],
        logs: Sequence[Mapping[str, Any]],
    ) -> Json:
        return self._ask(
            lambda market: market.report_readings(
                job, run_pid=run_pid, readings=readings, evaluated=evaluated, lost=lost, logs=logs
            )
        )

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        return self._ask(lambda market: market.report_checkpoint(report))

    def report_save(self, report: Mapping[str, Any]) -> Json:
        return self._ask(lambda market: market.report_save(report))

    def report_attempt(self, report: Mapping[str, Any]) -> Json:
        return self._ask(lambda market: market.report_attempt(report))

    def report_halted(
        self, job: str, *, state: str, reason: str, detail: str, round: int, manifest: str | None, run: int
    ) -> Json:
        return self._ask(
            lambda market: market.report_halted(
                job, state=state, reason=reason, detail=detail, round=round, manifest=manifest, run=run
            )
        )

    def _ask(self, question: Callable[[Market], Answer], passing: tuple[int, ...] = _PASSING_STATUSES) -> Answer:
        if self._market is None:
            home = Home(Path(self._home))
            self._market = Market(self._url, home.read_keys()["plane"], patience_s=0, ca=home.ca)
        try:
            return question(self._market)
        except MarketUnreachable as away:
            raise DoorAway(str(away)) from away
        except Refused as refused:
            if refused.status in passing:
                raise DoorAway(str(refused)) from refused
            raise DoorRefused(refused.code, refused.message) from refused
