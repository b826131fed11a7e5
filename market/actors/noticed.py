"""Leases to which the market gave notice (outbid, or their time is over): each leaves at its boundary,
in the background, is ended when it has left or its notice is over, and the market hears of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from market.actors.stable import Stable
from market.actors.status_lines import say
from market.faults import NOTICED
from market.lease_lists import Lease, LeaseLists

TOLD = {
    "outbid": "it left with notice: another job bid more",
    "max_lease": "it left with notice: it lasted as long as its offer lets",
    "maintenance": "it left with notice: maintenance begins",
    "maintenance_unannounced": "it left with notice: maintenance begins",
}


class Noticed:
    """See the module. Used by the host's main thread; `on_left` is called from others.

    `end_lease` tells the market: lease, epoch, reason, detail.
    """

    def __init__(
        self, longest_s: float, lists: LeaseLists, on_left: Callable[[Lease], None], end_lease: Callable[[str, int, str, str], None]
    ) -> None:
        self._longest_s, self._lists, self._on_left, self._end_lease = longest_s, lists, on_left, end_lease
        self._leaving: set[int] = set()
        self.stable: Stable | None = None

    def hear(self, leases: Iterable[Lease]) -> None:
        """A list of leases as the market sends it: whoever has notice begins to leave, once."""
        assert self.stable is not None
        for lease in leases:
            ending, epoch = lease.get("ending"), lease["epoch"]
            if ending is None or ending["reason"] not in NOTICED or epoch in self._leaving:
                continue
            self._leaving.add(epoch)
            self._lists.end(epoch)  # also one that was not begun yet
            wait = self.stable.ask_to_leave(epoch, min(self._longest_s, ending["notice_ms"] / 1000), ending["reason"])
            if wait is None:
                self.left(lease)
            else:
                threading.Thread(target=self._wait, args=(wait, lease), name="leaving", daemon=True).start()

    def left(self, lease: Lease) -> None:
        """It has left what it had, or had its time."""
        assert self.stable is not None
        self.stable.end([lease["epoch"]])
        reason = lease["ending"]["reason"]
        self._end_lease(lease["id"], lease["epoch"], reason, TOLD[reason])
        say("lease", state="left", lease=lease["id"], reason=reason)
        self.stable.fill()

    def _wait(self, wait: Callable[[], None], lease: Lease) -> None:
        wait()
        self._on_left(lease)
