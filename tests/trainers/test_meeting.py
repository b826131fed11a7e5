"""A worker's end of the mesh, when its run is replaced while an exchange ends."""

import hashlib
import threading
from typing import Any

import numpy as np

from trainers.actors.meeting import Meeting
from trainers.exchanging import Way
from trainers.layout import flat_layout
from trainers.member import Member, RoundOrder
from trainers.options import strategy_options

ELEMENTS = 5_000
SPEC = {"strategy": strategy_options({"name": "diloco"}), "steps": 60, "seed": 1}


def merged(meetings: list[Meeting], secret: bytes, number: int, second: threading.Event) -> list[dict[str, Any]]:
    """What both answer when they exchange in the run of that secret, its first start; `second`: set when the second has answered."""
    run = hashlib.sha256(secret).hexdigest()[:16]
    meshes = [meeting.mesh if meeting.run == run else meeting.open(secret) for meeting in meetings]
    members = [[slot, 1, mesh.address] for slot, mesh in enumerate(meshes)]
    order, answers = RoundOrder(number, 30 * number - 30, 30 * number, 60 * number, (0, 1)), [{}, {}]
    for meeting in meetings:
        meeting._member.contribute(np.full(ELEMENTS, 0.1, dtype=np.float32), order)
        now = meeting.begin(order, 1, members)
        meeting.trained(now, {"ok": True}, np.zeros(ELEMENTS, dtype=np.float32), Way("gather"))

    def merge(slot: int) -> None:
        asked = {"round": number, "start": [meetings[slot].run, 1], "attempt": 0, "members": members, "timeout_s": 30}
        answers[slot] = meetings[slot].merge(asked)
        if slot == 1:
            second.set()

    threads = [threading.Thread(target=merge, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_bytes_are_counted_from_none_when_a_run_is_replaced_before_the_last_ones_answer(monkeypatch) -> None:
    members = [Member(SPEC, flat_layout(ELEMENTS), np.zeros(ELEMENTS, dtype=np.float32), slot=slot, epoch=1) for slot in (0, 1)]
    meetings = [Meeting(member, "127.0.0.1") for member in members]
    late, real = meetings[0], members[0].sent_digest

    second = threading.Event()

    def replaced_meanwhile() -> str:
        assert second.wait(30), "the other has all that it waits for before this end is closed"
        monkeypatch.setattr(members[0], "sent_digest", real)
        late.open(bytes([2]) * 32)
        return real()

    monkeypatch.setattr(members[0], "sent_digest", replaced_meanwhile)
    try:
        merged(meetings, bytes(32), 1, second)
        answers = merged(meetings, bytes([2]) * 32, 1, second)
        assert [answer["sent_bytes"] >= 0 for answer in answers] == [True, True]
        assert [answer["received_bytes"] > ELEMENTS for answer in answers] == [True, True]
    finally:
        for meeting in meetings:
            meeting.close()
