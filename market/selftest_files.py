"""A provider's folder keeps its signed self-test (`selftest.json`) and the key that signs it (`selftest.key`, 0600)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from market.homes import kept_key, read_json, write_json
from market.selftests import fault, signed

RESULT, KEY = "selftest.json", "selftest.key"

Json = dict[str, Any]


def kept(home: Path, machine: Mapping[str, Any]) -> Json | None:
    """The signed report in a provider's folder, if it is of this machine as it is now."""
    try:
        found = read_json(home / RESULT)
    except (OSError, ValueError):
        return None
    return found if fault(found) is None and found["report"]["machine"] == machine else None


def own_key(home: Path) -> bytes:
    """The provider's own signing key (raw Ed25519, 32 bytes), made if it is missing (0600)."""
    return kept_key(home / KEY)


def keep(home: Path, report: Json) -> Json:
    """Sign a report with the provider's own key and keep it."""
    made = signed(report, own_key(home))
    write_json(home / RESULT, made)
    return made
