"""What a provider may say of the machine that a lease's worker runs on: short facts, signed by its own key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from market.checking import MAX_INT, is_int, is_name, is_text
from storage.checks import Wrong
from storage.machines import FIELDS, check_machine

MOST_FACTS: Final = 64
LONGEST_FACT: Final = 256


def fault_of_machine(lease: str, epoch: int, machine: Mapping[str, Any]) -> str | None:
    """What is wrong with it, or None: its form, or its signature."""
    if set(machine) != FIELDS:
        return f"its fields are {', '.join(sorted(FIELDS))}"
    facts = machine["facts"]
    if not isinstance(facts, Mapping) or not 1 <= len(facts) <= MOST_FACTS:
        return f"facts are 1 to {MOST_FACTS} names with a value each"
    for name, value in facts.items():
        known = is_text(value, LONGEST_FACT) or is_int(value, 0, MAX_INT)
        if not (is_name(name) and known):
            return f"{name!r} is {str(value)[:80]!r}: a fact is a count or a text of at most {LONGEST_FACT} characters"
    try:
        check_machine({"lease": lease, "epoch": epoch, "machine": machine})
    except (Wrong, TypeError) as error:
        return str(error)
    return None
