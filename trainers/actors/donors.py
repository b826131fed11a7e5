"""Where a newcomer gets the state from: all living members at once, who offer it on the mesh once it is committed."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshTimeout, Peer, TransferFailed

JOIN_TIMEOUT_S = 60.0
FETCH_TRIES = 5
LENGTH = struct.Struct("<Q")


class NoDonor(Exception):
    """Nobody could give the state to start from."""


def offer(mesh: Mesh, round: int, state: Callable[[], bytes], inner: bytes, *, switched: bool) -> None:
    """Let newcomers have the state after `round`, and the inner optimiser's with it.

    `switched`: the state is another strategy's than the one that the round ended with, which may be offered still.
    """
    for place in sorted({_place(round, False), _place(round, switched)}):
        mesh.offer_state(place, lambda: _packed(state(), inner))


def fetch(mesh: Mesh, round: int, donors: Sequence[Peer], *, switched: bool) -> tuple[bytes, bytes]:
    """(state, inner optimiser's state or nothing). Raises NoDonor.

    A donor offers its state when it has heard that the round is committed, so that it may take several tries.
    """
    until, reason = time.monotonic() + JOIN_TIMEOUT_S, "no donor"
    for _ in range(FETCH_TRIES):
        try:
            return _unpacked(mesh.fetch_state(_place(round, switched), donors, until - time.monotonic()))
        except TransferFailed as failed:
            reason = str(failed)
        except MeshTimeout as late:
            raise NoDonor(str(late)) from None
    raise NoDonor(reason)


def _place(round: int, switched: bool) -> int:
    """Under which number the mesh keeps a state: before and after a switch of strategies at that round."""
    return 2 * round + int(switched)


def _packed(state: bytes, inner: bytes) -> bytes:
    return LENGTH.pack(len(state)) + state + inner


def _unpacked(content: bytes) -> tuple[bytes, bytes]:
    if len(content) < LENGTH.size:
        raise NoDonor(f"{len(content)} bytes are no state")
    (size,) = LENGTH.unpack_from(content)
    return content[LENGTH.size : LENGTH.size + size], content[LENGTH.size + size :]
