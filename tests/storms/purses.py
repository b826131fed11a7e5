"""What a job was paid from, recomputed from its transfers alone: granted credit is spent first, and given back last.

A part of the auditor. Each transfer is held against two sentences of docs/FAULTS.md: nothing granted becomes money, and what
was spent last is given back first. Nothing here says how the market deals the parts.
"""

from dataclasses import dataclass, field

from tests.storms.records import Event


@dataclass(slots=True)
class Purse:
    """`granted` is by grant, in the order in which it was held, what has not gone back to it; `bought` the same of the wallet."""

    granted: dict[str, int] = field(default_factory=dict)
    bought: int = 0
    cost: int = 0

    def wrong(self, event: Event, kept: int) -> str | None:
        """Note a transfer of the job; what is wrong with it, or None. kept: what its escrow keeps for open disputes."""
        kind, nanos, grant = event["kind"], event["amount_nanos"], event["credit"].removeprefix("credit:")
        to_grant = grant != event["credit"]
        if kind == "hold":
            self._hold(event["debit"], nanos)
        elif kind in ("charge", "fee", "award"):
            self.cost += nanos
        elif kind in ("refund", "correction", "release"):
            source = grant if to_grant else None
            found = self._unspent(source, nanos, kept) if kind == "release" else self._given_back(source, nanos)
            self.cost -= nanos if kind != "release" else 0
            if source is None:
                self.bought -= nanos
            else:
                self.granted[source] -= nanos
            return found
        return None

    def _hold(self, account: str, nanos: int) -> None:
        if account.startswith("credit:"):
            name = account.removeprefix("credit:")
            self.granted[name] = self.granted.get(name, 0) + nanos
        else:
            self.bought += nanos

    def _below(self, grant: str | None) -> int:
        """What can be spent before anything of this grant is; of None: before bought money is."""
        found = 0
        for name, nanos in self.granted.items():
            if name == grant:
                break
            found += nanos
        return found

    def _given_back(self, grant: str | None, nanos: int) -> str | None:
        spent_here = self.cost - self._below(grant)
        if grant is None:
            return f"{nanos - max(0, spent_here)} of granted credit becomes money" if spent_here < nanos else None
        if self.cost > sum(self.granted.values()):
            return f"the grant {grant} gets back what was bought"
        if spent_here < nanos or spent_here > self.granted[grant]:
            return f"the grant {grant} gets {nanos} back, and {spent_here} was spent of it last"
        return None

    def _unspent(self, grant: str | None, nanos: int, kept: int) -> str | None:
        """A release is of what lay in the escrow and was neither spent of this source nor kept."""
        spent_here = max(0, self.cost + kept - self._below(grant))
        if grant is None:
            over = nanos - (self.bought - spent_here)
            return f"{over} of granted credit becomes money" if over > 0 else None
        left = self.granted[grant]
        return f"the grant {grant} gets back what was spent of it" if nanos > left - min(left, spent_here) else None
