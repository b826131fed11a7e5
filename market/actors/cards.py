"""The NVIDIA cards of this machine: which there are, which of them are ours, and which one serves whom.

A card belongs to one provider of a machine at a time, and to one worker. Not run on a real card yet (see
`trainers.devices`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from market.hardware import name_of_product
from trainers.devices import Device

GIBIBYTE = 2**30
PROBE = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.__version__)"
PROBE_TIMEOUT_S = 120.0
DRIVER_LIBRARY = "libnvidia-ml.so"


@dataclass(frozen=True, slots=True)
class Card:
    """One card as the driver reports it, under the market's name for its model."""

    model: str
    vram_gib: float
    device: Device


def find_cards() -> tuple[Card, ...]:
    """What the NVIDIA driver reports and CUDA_VISIBLE_DEVICES leaves; nothing without a driver or without nvidia-ml-py."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        libraries = driver_folder(Path("/proc/self/maps").read_text(encoding="utf-8"))
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            vram_gib = round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIBIBYTE, 1)
            device = Device(_text(pynvml.nvmlDeviceGetUUID(handle)), pynvml.nvmlDeviceGetMinorNumber(handle), libraries)
            found.append(Card(name_of_product(_text(pynvml.nvmlDeviceGetName(handle)), vram_gib), vram_gib, device))
        return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    finally:
        pynvml.nvmlShutdown()


def visible(cards: Sequence[Card], named: str | None) -> tuple[Card, ...]:
    """Those of the cards that CUDA_VISIBLE_DEVICES names, in its order, by number or by (the begin of a) uuid; all of them where it is
    not set, and none from the first name on that is no card, as CUDA does it.
    """
    if named is None:
        return tuple(cards)
    found: list[Card] = []
    for name in (part.strip() for part in named.split(",")):
        if name.isdecimal():
            card = cards[int(name)] if int(name) < len(cards) else None
        else:
            card = next((one for one in cards if name and one.device.uuid.startswith(name)), None)
        if card is None:
            break
        found += [card] if card not in found else []
    return tuple(found)


def driver_folder(maps: str) -> str:
    """The folder that the driver's library was loaded from, given /proc/self/maps of a process that has loaded it."""
    paths = (line.split(maxsplit=5)[5] for line in maps.splitlines() if DRIVER_LIBRARY in line)
    return str(Path(next(paths, f"/usr/lib/{DRIVER_LIBRARY}")).parent)


def torch_devices(cards: Sequence[Card]) -> tuple[int, str]:
    """(how many of these cards the installed torch can use, its version), found in a process of its own."""
    visible = ",".join(card.device.uuid for card in cards)
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=True,
    )
    count, version = done.stdout.split()
    return int(count), version


class Claim:
    """A card that no other process of this machine claims, for as long as this object or process lives.

    The mark is an abstract socket name, so the kernel takes it back however the process ends; nothing is left on disk.
    """

    def __init__(self, card: Card, mark: socket.socket) -> None:
        self.card = card
        self._mark = mark

    def release(self) -> None:
        """Let another provider have it."""
        self._mark.close()

    def __del__(self) -> None:
        self.release()


def claim(cards: Iterable[Card], most: int | None) -> tuple[Claim, ...]:
    """Claim the first `most` cards that are free (all that are, without a number)."""
    claims: list[Claim] = []
    for card in cards:
        if most is not None and len(claims) >= most:
            break
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0torg-card-{card.device.uuid}")
        except OSError:  # EADDRINUSE: another provider offers it
            mark.close()
            continue
        claims.append(Claim(card, mark))
    return tuple(claims)


@dataclass(slots=True)
class CardPool:
    """Cards that serve nobody, the first ones first."""

    free: list[Card] = field(default_factory=list)

    def take(self, count: int) -> tuple[Card, ...]:
        """That many of them, or none when there are fewer."""
        if count > len(self.free):
            return ()
        taken, self.free = self.free[:count], self.free[count:]
        return tuple(taken)

    def give_back(self, cards: Iterable[Card]) -> None:
        """A worker has ended."""
        self.free = [*cards, *self.free]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
