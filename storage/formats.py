"""Which format a market's home and its journal have, what this torg reads, and how an older home becomes a newer one.

`format.json` in the home says the home's; a home of before it has none and is 1. The journal says its own in the event
`journal_format`; without one it is 1. What is newer than this torg is refused before anything is read further, with both
numbers and what to do; what is older is read for ever.

A home is upgraded step by step when its market starts, each step from one number to the next: the step does its work, which
may be done again, beside what is there; then the number is written (beside, synced, renamed). So a market that is killed at
any point has the home of before the step or the one after it, and the next start goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from storage.journal_format import segments

HOME_FORMAT: Final = 3
JOURNAL_FORMAT: Final = 4
RECORD_VERSION: Final = 1
FILE: Final = "format.json"
REMEDY: Final = "use the torg that wrote it, or a newer one"
Step = Callable[[Path], None]


class FormatNewer(Exception):
    """Something is of a format that this torg does not read; the text names both and what to do."""

    def __init__(self, what: str, found: object, known: object) -> None:
        self.message = f"{what} has format {found}, and this torg reads up to {known}"
        self.remedy = REMEDY
        super().__init__(f"{self.message}: {REMEDY}")


class FormatDamaged(Exception):
    """`format.json` does not say a format."""


def _to_2(home: Path) -> None:
    """Format 2 has its number written down and journals its events' format; no file of format 1 changes."""


def _to_3(home: Path) -> None:
    """Format 3 may have sealed segments, which are made of the others as time goes by; no file of format 2 changes."""


STEPS: Final[Mapping[int, Step]] = {1: _to_2, 2: _to_3}
"""From which format each step leads to the next."""


def home_format(home: Path) -> int:
    """The format of a home; of one that holds no market yet the newest. Raises FormatDamaged, OSError."""
    try:
        text = (home / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return 1 if segments(home / "journal") else HOME_FORMAT
    try:
        found = json.loads(text)["home"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatDamaged(f"{home / FILE} does not say which format the home has") from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise FormatDamaged(f"{home / FILE} says {found!r}, which is no format")
    return found


def check_home(home: Path) -> int:
    """The format of a home that this torg reads. Raises FormatNewer, FormatDamaged, OSError."""
    found = home_format(home)
    if found > HOME_FORMAT:
        raise FormatNewer(f"the home {home}", found, HOME_FORMAT)
    return found


def upgrade_home(home: Path, steps: Mapping[int, Step] = STEPS, newest: int = HOME_FORMAT) -> int | None:
    """Bring a home up to `newest` in place and write its format down; what it was, or None if there was nothing to do.

    Only who holds the journal's lock calls it. Raises FormatNewer, FormatDamaged, OSError.
    """
    found = home_format(home)
    if found > newest:
        raise FormatNewer(f"the home {home}", found, newest)
    for number in range(found, newest):
        steps[number](home)
        _write_down(home, number + 1)
    if not (home / FILE).exists():
        _write_down(home, newest)
    return found if found < newest else None


def _write_down(home: Path, number: int) -> None:
    """Replace `format.json` as a whole."""
    beside = home / f".{FILE}.new"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(handle, json.dumps({"home": number}, indent=2).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(beside, home / FILE)
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def newer_record(number: int, content: Mapping[str, Any], known: int = JOURNAL_FORMAT) -> str | None:
    """Why a record of the journal is too new for this torg, or None."""
    if content.get("v") != RECORD_VERSION:
        return _told(f"record {number} of the journal", content.get("v"), RECORD_VERSION)
    for event in content["events"]:
        if event["type"] == "journal_format" and event["format"] > known:
            return _told("the journal", f"{event['format']} (from record {number} on)", known)
    return None


def newer_manifest(what: str, found: object, known: str) -> str | None:
    """Why a document whose `format` is `found` is too new for who reads `known` (`torg-saved-1`), or None."""
    name, _, number = known.rpartition("-")
    theirs = found.removeprefix(f"{name}-") if isinstance(found, str) and found.startswith(f"{name}-") else ""
    if not (theirs.isascii() and theirs.isdecimal() and int(theirs) > int(number)):
        return None
    return _told(what, found, known)


def found_format(value: object) -> object:
    """What a document says that it is; None where it says nothing."""
    return value.get("format") if isinstance(value, dict) else None


def _told(what: str, found: object, known: object) -> str:
    return str(FormatNewer(what, found, known))
