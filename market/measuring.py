"""Measurements that the market asks for: when, of whom, and what comes of the answer.

An offer that is open and rents nothing out is asked at a time that nobody but the market knows: 5 to 15 minutes after it was
listed, when its machine is done with starting, and 6 to 18 hours after each time, by the random number that a tick brings. Until it has answered, two minutes at most, nobody is matched to it, so that no
renter shares the machine with a measurement. One figure that is too low, or no answer, is asked again within two minutes;
the second in a row puts the offer in doubt: it is matched to nobody until a measurement bears it out, which is asked for
every quarter of an hour. Who is always rented out is not asked; its work speaks (market/pace.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from market.checking import invalid, is_int, is_name, is_number
from market.commands import ReportMeasured
from market.measurements import doubt_of, fallen
from market.outcomes import Answer, Refusal, unknown
from market.pace import LOW_PERCENT
from market.state import OfferRecord
from market.turn import Turn

FIRST_MS: Final = 600_000
AGAIN_MS: Final = 60_000
DOUBTED_MS: Final = 900_000
SILENT: Final = "it was asked to measure, and did not answer"
MAX_FIGURES: Final = 64


def ask_measurements(turn: Turn, random: int, offers: Iterable[OfferRecord]) -> None:
    """Ask who of these is due, and note who did not answer."""
    for offer in offers:
        if offer.asked is not None:
            if turn.now_ms > offer.asked["until_ms"]:
                _note(turn, offer, {}, SILENT)
        elif _is_idle(turn, offer):
            due_ms = turn.volatile.measure_ms.setdefault(offer.id, turn.now_ms + _wait_ms(turn, offer, random))
            if _was_slow(offer) or turn.now_ms >= due_ms:
                turn.volatile.measure_ms.pop(offer.id, None)
                seed = _number(random, offer.id, turn.now_ms) % 2**31
                until_ms = turn.now_ms + turn.settings.measure_patience_ms
                turn.emit("measurement_asked", {"offer": offer.id, "seed": seed, "until_ms": until_ms})


def report_measured(turn: Turn, command: ReportMeasured) -> Answer | Refusal:
    """A provider's answer to the measurement that was asked for; told again: answered."""
    refusal = turn.require(command.by, ("provider",))
    if refusal is not None:
        return refusal
    offer = turn.state.offers.get(command.offer)
    if offer is None or offer.provider != command.by:
        return unknown("offer", command.offer)
    if not is_int(command.seed, 0, 2**31):
        return invalid("seed", command.seed, "the seed of the measurement that was asked for")
    if offer.asked is None or offer.asked["seed"] != command.seed:
        if offer.answered == command.seed:
            return Answer(_answer(offer), created=False)
        return Refusal("not_asked", f"no measurement {command.seed} of {offer.id} is asked for", field="seed",
                       remedy="measure what the offer's field measure says", status=409)  # fmt: skip
    if not 1 <= len(command.measured) <= MAX_FIGURES:
        return invalid("measured", len(command.measured), f"1 to {MAX_FIGURES} figures")
    for name, value in command.measured.items():
        if not (is_name(name) and is_number(value, 0, 1e18)):
            return invalid(f"measured.{name}", value, "a number from 0")
    figures = {**offer.measured, **command.measured}
    found = doubt_of(offer.gpu, offer.gpus, offer.vram_gib, figures) or fallen(offer.measured_first, figures)
    _note(turn, offer, figures, "" if found is None else found.message)
    return Answer(_answer(offer))


def _note(turn: Turn, offer: OfferRecord, measured: dict[str, float], below: str) -> None:
    assert offer.asked is not None
    told = {"offer": offer.id, "seed": offer.asked["seed"], "measured": measured, "below": turn.cut(below)}
    turn.emit("offer_measured", told)
    turn.volatile.dirty = True


def _is_idle(turn: Turn, offer: OfferRecord) -> bool:
    """Open, heard of lately, with figures of its own to begin with, and with nothing let and nothing held."""
    silent_ms = turn.now_ms - turn.volatile.heard_ms.get(offer.id, 0)
    idle = offer.state == "open" and not offer.live and not offer.held["gpus"]
    patience_ms, window = turn.settings.measure_patience_ms, offer.window
    away = window is not None and window.begin_ms - patience_ms <= turn.now_ms < window.end_ms
    return idle and not away and bool(offer.measured) and silent_ms <= turn.settings.offer_timeout_ms


def _was_slow(offer: OfferRecord) -> bool:
    """Whether a job found it less than half as fast as others of its model since it was measured last."""
    pace = offer.pace
    return pace is not None and pace["percent"] is not None and pace["percent"] < LOW_PERCENT and pace["at_ms"] >= offer.measured_ms


def _wait_ms(turn: Turn, offer: OfferRecord, random: int) -> int:
    """Half to one and a half times what is usual, by chance."""
    usual = turn.settings.measure_every_ms
    if offer.doubt or offer.strikes:
        usual = DOUBTED_MS if offer.doubt else AGAIN_MS
    elif offer.answered is None:
        usual = min(usual, FIRST_MS)
    return usual // 2 + _number(random, offer.id, turn.now_ms) % max(1, usual)


def _number(random: int, offer: str, now_ms: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{random}:{offer}:{now_ms}".encode()).digest()[:8], "big")


def _answer(offer: OfferRecord) -> dict[str, object]:
    return {"id": offer.id, "measured": dict(offer.measured), "doubt": offer.doubt, "strikes": offer.strikes}
