"""A provider's host measures: before it offers, and again when the market asks, which it does while nothing is let."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from market.actors.host_config import Hardware
from market.actors.measure import measure, measure_disk
from market.client import Market, MarketUnreachable, Refused

PROBE_BYTES = 2 * 1024 * 1024

Json = dict[str, Any]
Measure = Callable[[int], dict[str, int]]


def measure_all(hardware: Hardware, home: Path, market: Market, seed: int) -> dict[str, int]:
    """Everything that an offer says of its machine: one unit's figures, the disk of the home, the link to the market. What
    cannot be measured of disk and link is left out; raises where the unit itself cannot be measured.
    """
    card = hardware.claims[seed % len(hardware.claims)].card.device.uuid if hardware.claims else None
    return measure(hardware.units, card, seed) | measure_disk(home) | measure_link(market)


def measure_link(market: Market) -> dict[str, int]:
    """{head_round_trip_us, head_down_kbytes_per_second, head_up_kbytes_per_second} to and from the market's API."""
    try:
        trip_s, get_s, send_s = market.blobs.probe(PROBE_BYTES)
    except (MarketUnreachable, Refused):
        return {}
    rates = {"head_down_kbytes_per_second": get_s, "head_up_kbytes_per_second": send_s}
    found = {name: int(PROBE_BYTES / max(1e-6, took_s - trip_s) / 1e3) for name, took_s in rates.items()}
    return {"head_round_trip_us": int(trip_s * 1e6), **found}


class Remeasurer:
    """Answers each measurement that the market asks for, once, from a thread of its own."""

    def __init__(self, market: Market, offer: str, measured: Measure, say: Callable[..., None]) -> None:
        self._market, self._offer, self._measured, self._say = market, offer, measured, say
        self._seen: int | None = None

    def look(self, asked: Mapping[str, Any] | None) -> None:
        """The offer's field `measure`, as the newest list of leases shows it."""
        if asked is None or asked["seed"] == self._seen:
            return
        self._seen = int(asked["seed"])
        threading.Thread(target=self._answer, args=(self._seen,), name="measure", daemon=True).start()

    def _answer(self, seed: int) -> None:
        try:
            told = self._market.report_measured(self._offer, seed=seed, measured=self._measured(seed))
        except (MarketUnreachable, Refused) as problem:
            self._say("measured", message=str(problem))
        except (OSError, ValueError, subprocess.SubprocessError) as error:  # the market hears nothing, and asks again
            self._say("measured", message=f"{type(error).__name__}: {error}")
        else:
            self._say("measured", doubt=told["doubt"])
