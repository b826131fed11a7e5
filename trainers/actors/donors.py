"""Where a newcomer gets the state from: all living members at once, who offer it on the mesh once it is committed.

Who holds an older state makes the rounds again that it has missed, from what they merged: with int8 an eighth of the state
for each of two members. So a worker that was late, and a newcomer that took the state over while the others trained on,
hold up nobody at the boundary, also where links are slow.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence

from trainers.codecs import BadPayload
from trainers.contributions import unpack_bundle
from trainers.filled import joined
from trainers.member import Member, MemberError, staged
from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshTimeout, Peer, TransferFailed

PATIENCE_S = 60.0
FETCH_TRIES = 5
MOST_MISSED_ROUNDS = 16
log = logging.getLogger(__name__)

LENGTH = struct.Struct("<Q")


class NoDonor(Exception):
    """Nobody could give the state to start from."""


def offer(
    mesh: Mesh, round: int, state: Callable[[], bytes], inner: Callable[[], bytes] | None, *, switched: bool
) -> None:
    """Let newcomers have the state after `round`, and the inner optimiser's with it. Both are made when one asks.

    `switched`: the state is another strategy's than the one that the round ended with, which may be offered still.
    """
    for place in sorted({_place(round, False), _place(round, switched)}):
        mesh.offer_state(place, lambda: _packed(state(), inner() if inner is not None else b""))


def fetch(mesh: Mesh, round: int, donors: Sequence[Peer], *, switched: bool) -> tuple[bytes, bytes]:
    """(state, inner optimiser's state or nothing). Raises NoDonor.

    A donor offers its state when it has heard that the round is committed, so that it may take several tries. How long it
    takes is not limited as long as bytes come.
    """
    reason = "no donor"
    for _ in range(FETCH_TRIES):
        try:
            return _unpacked(mesh.fetch_state(_place(round, switched), donors, PATIENCE_S))
        except TransferFailed as failed:
            reason = str(failed)
        except MeshTimeout as late:
            raise NoDonor(str(late)) from None
    raise NoDonor(reason)


def offer_round(mesh: Mesh, member: Member) -> None:
    """Let those who hold the state before the round that is committed last have what it merged. More of such rounds than
    weigh as much as the state are not kept: to fetch the state is cheaper then.
    """
    bundle = member.bundle
    if bundle is not None:
        size = sum(vector.nbytes for name, vector in member.state.items() if name in member.strategy.shared)
        mesh.offer_round(member.round, bundle.pack, bundle.payload_bytes, size)


def catch_up(mesh: Mesh, member: Member, round: int, digest: str, donors: Sequence[Peer]) -> bool:
    """Make the rounds again that this member has missed, up to `round`, whose outcome has that digest. False when that
    cannot be, and then nothing has changed.
    """
    if not member.replays or not 0 < round - member.round <= MOST_MISSED_ROUNDS:
        return False
    ahead = staged(member)
    try:
        for number in range(member.round + 1, round + 1):
            ahead.apply(unpack_bundle(mesh.fetch_round(number, donors, PATIENCE_S)))
    except (TransferFailed, MeshTimeout, BadPayload, MemberError) as reason:
        log.info("the rounds from %d to %d cannot be made again here: %s", member.round + 1, round, reason)
        return False
    if ahead.digest() != digest:  # of a course of rounds that was undone
        return False
    member.become(ahead)
    return True


def _place(round: int, switched: bool) -> int:
    """Under which number the mesh keeps a state: before and after a switch of strategies at that round."""
    return 2 * round + int(switched)


def _packed(state: bytes, inner: bytes) -> bytes:
    return joined([LENGTH.pack(len(state)), state, inner])


def _unpacked(content: bytes) -> tuple[bytes, bytes]:
    if len(content) < LENGTH.size:
        raise NoDonor(f"{len(content)} bytes are no state")
    (size,) = LENGTH.unpack_from(content)
    return content[LENGTH.size : LENGTH.size + size], content[LENGTH.size + size :]
