"""What the owner of an offer asks beside its price. Pure; every field has a default that asks for nothing.

Kept as plain JSON that names only what differs from the defaults, so that an offer from before a field was there has the
same digest and reads the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

DEFAULT_NOTICE_MS: Final = 5_000
LONGEST_NOTICE_MS: Final = 3_600_000
MOST_NAMED: Final = 256


@dataclass(frozen=True, slots=True)
class OwnerTerms:
    """See the module.

    Args:
        notice_ms: how long a lease that the owner takes back has to leave what it has.
        until_ms: when the machine goes, in milliseconds since the epoch; None is never. No lease begins shortly before.
        network: whether commands of batch jobs that ask for it have a way out to the public internet.
        prices: (hours, nano-dollars per GPU-hour) that are asked instead of the offer's price, by the clock of `zone`.
        allow: the only customers that may rent, where any are named. deny: those that may not, though they be allowed.
        max_units_per_customer: how many units one customer may have at once.
        max_unit_ms_per_customer_day: for how long (units times milliseconds) one customer may have them in a day (UTC); looked
            at when a lease begins, so that what runs goes on.
        own: customers that are the owner: their jobs cost nothing here, come here first, and are not bounded by the four before,
            nor by how long leases may and must be.
        environments: whether such commands may have Python environments of their own, built on the machine from wheels.
        min_lease_ms: jobs that are expected to be done sooner do not come here. max_lease_ms: a lease that has lasted as long ends,
            with notice before; jobs that are expected to last longer come only if they may be moved.
        maintenance: windows (market/maintenance.py) in which the machine is not for rent; leases have left it before, with notice.
    """

    notice_ms: int = DEFAULT_NOTICE_MS
    until_ms: int | None = None
    network: bool = False
    environments: bool = False
    prices: tuple[tuple[str, int], ...] = ()
    zone: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_units_per_customer: int | None = None
    own: tuple[str, ...] = ()
    max_unit_ms_per_customer_day: int | None = None
    min_lease_ms: int | None = None
    max_lease_ms: int | None = None
    maintenance: tuple[str, ...] = ()

    def lets(self, customer: str) -> bool:
        """Whether this customer may rent."""
        return customer in self.own or (customer not in self.deny and (not self.allow or customer in self.allow))

    def as_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return {name: _thawed(value) for name, value in plain.items()}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> OwnerTerms:
        """The terms that `as_json` told of."""
        return cls(**{name: _frozen(value) for name, value in found.items()})


def _thawed(value: Any) -> Any:
    return [_thawed(one) for one in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
