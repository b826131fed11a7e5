"""Which leases a provider's host ends and begins, by the lists that the market sends. Pure.

Starting a worker takes seconds, and lists come in meanwhile: an old one that waits its turn names leases that are over.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Lease = Mapping[str, Any]


class LeaseLists:
    """Acts on the newest list only, and never twice on a lease that is over."""

    def __init__(self) -> None:
        self._newest: Mapping[str, Any] | None = None
        self._over: set[int] = set()

    def heard(self, answer: Mapping[str, Any]) -> None:
        """The market's newest answer, {"leases": [{"epoch", …}, …], …}; as soon as it is there, from any thread."""
        self._newest = answer

    def is_newest(self, answer: Mapping[str, Any]) -> bool:
        """Whether nothing newer has been heard than this very answer."""
        return answer is self._newest

    def end(self, epoch: int) -> None:
        """This host has ended the lease, or was told that it is over: whatever a list says, it is not begun again."""
        self._over.add(epoch)

    def to_begin(self, answer: Mapping[str, Any], serves: Callable[[int], bool]) -> Iterator[Lease]:
        """Leases of the answer, in its order, that no worker serves yet. Whatever was heard or ended since the one
        before was taken is looked at before the next: a newer answer ends this one.
        """
        for lease in answer["leases"]:
            if not self.is_newest(answer):
                return
            if lease["epoch"] not in self._over and not serves(lease["epoch"]):
                yield lease
