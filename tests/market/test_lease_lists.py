"""A provider's host acts on the newest list of leases only, and never begins one again that is over."""

from __future__ import annotations

from typing import Any

from market.lease_lists import LeaseLists


class Host:
    """The host's main thread: lists wait in a queue, and more come in while a worker is started."""

    def __init__(self) -> None:
        self.lists, self.waiting, self.serving = LeaseLists(), list[dict[str, Any]](), set[int]()
        self.begun, self.while_starting = list[int](), dict[int, list[tuple[int, ...]]]()
        self.refused = set[int]()

    def hear(self, *epochs: int) -> None:
        answer = {"leases": [{"epoch": epoch} for epoch in epochs]}
        self.lists.heard(answer)
        self.waiting.append(answer)

    def work(self) -> list[int]:
        """Take every list that waits in turn; the epochs begun by it."""
        before = len(self.begun)
        while self.waiting:
            answer = self.waiting.pop(0)
            if not self.lists.is_newest(answer):
                continue
            self.serving &= {lease["epoch"] for lease in answer["leases"]}
            for lease in self.lists.to_begin(answer, self.serving.__contains__):
                self.start(lease["epoch"])
        return self.begun[before:]

    def start(self, epoch: int) -> None:
        self.begun.append(epoch)
        for epochs in self.while_starting.pop(epoch, []):
            self.hear(*epochs)
        if epoch in self.refused:
            self.lists.end(epoch)
        else:
            self.serving.add(epoch)


def test_each_lease_is_begun_once_in_the_order_of_the_list() -> None:
    host = Host()
    host.hear(2, 1)
    assert host.work() == [2, 1]
    host.hear(2, 1, 3)
    assert host.work() == [3]


def test_an_old_list_behind_a_newer_one_is_skipped() -> None:
    host = Host()
    host.hear(1, 2)
    host.hear(2)
    assert host.work() == [2]


def test_the_rest_of_a_list_is_left_when_a_newer_one_comes_in_meanwhile() -> None:
    host = Host()
    host.while_starting = {1: [(1, 2, 3), (1, 3)]}
    host.hear(1, 2)
    assert host.work() == [1, 3]
    assert host.serving == {1, 3}


def test_a_lease_that_is_over_is_not_begun_again_by_whatever_list() -> None:
    host = Host()
    host.refused = {1}
    host.hear(1, 2)
    host.hear(1, 2)
    assert host.work() == [1, 2]
    host.hear(1, 2)
    assert host.work() == []


def test_a_lease_whose_worker_died_is_not_begun_again_and_one_that_was_not_told_is() -> None:
    host = Host()
    host.hear(1, 2)
    host.work()
    host.serving.clear()
    host.lists.end(1)  # its worker died; the market has not heard of 2 yet
    host.hear(1, 2)
    assert host.work() == [2]


def test_an_equal_list_that_is_newer_is_another() -> None:
    host = Host()
    host.hear(1)
    old = host.waiting[0]
    host.hear(1)
    assert not host.lists.is_newest(old)
    assert list(host.lists.to_begin(old, lambda _: False)) == []
