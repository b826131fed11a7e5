"""A job's secrets on the machine that runs it: how they come to the worker, and how they stay out of what leaves it.

Whoever is root on the machine can read them all the same, in the command's own memory.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

FILE = "secrets.json"
DOOR_FILE = "door.json"
"""Where the market is, and the token with which the worker takes sessions of its lease: {url, token, ca}."""
METER_FILE = "meter.json"
"""The private key with which the worker signs its meter: {key}, hex (storage/meter_readings.py)."""
SHORTEST = 4
"""Characters; what is shorter is everywhere, and hiding it would tell what it is."""
MASK = "***"


def leave(folder: Path, secrets: Mapping[str, str], name: str = FILE) -> None:
    """Write them for the worker of that folder, for its account alone. Raises OSError."""
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(dict(secrets), file)


def take(folder: Path, name: str = FILE) -> dict[str, str]:
    """What was left there, once: the file is gone afterwards. Nothing where none was left."""
    path = folder / name
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    path.unlink()
    return found


class Masks:
    """Hides values, and each line of those that have several, wherever they stand in a text."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        parts = {line.strip() for value in secrets.values() for line in (value, *value.splitlines())}
        # the longest first: one may be a part of another
        self._parts = sorted((part for part in parts if len(part) >= SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for part in self._parts:
            text = text.replace(part, MASK)
        return text
