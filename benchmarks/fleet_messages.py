"""What a fleet and its worker processes say to each other: (call, method, arguments) and (call, whether well, answer)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SHORT_BYTES = 64 << 10
SHORT, LONG = 0, 1
"""Which of the two connections."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes in a file that every machine of the fleet has already, such as the job's data."""

    path: str


def lane(values: Iterable[Any]) -> int:
    """The connection for a message with these values."""
    return LONG if any(isinstance(value, bytes) and len(value) > SHORT_BYTES for value in values) else SHORT
