"""What a synchronisation costs on the wire, and which topology is the cheapest. Pure.

For N members, each with a payload of P bytes, the busiest member sends (and receives):

- gather: everybody's payload goes to everybody: (N − 1) · P, in one hop;
- butterfly (reduce-scatter, then all-gather; Patarasuk and Yuan 2009): each member owns a slice of P / N, gets it from
  all and returns it reduced to all: 2 (N − 1) / N · P, in two hops;
- star: the centre gets P from all and returns P to all: (N − 1) · P, in two hops; the others send P.

For two members a gather and a butterfly carry the same bytes, and a gather has one hop less. Star is never the
cheapest for its centre; it has the fewest frames in all, 2 (N − 1), and is there for those who ask for it by name.
"""

from __future__ import annotations

from typing import Literal

from trainers.mesh.wire import HEADER_BYTES

Topology = Literal["gather", "butterfly", "star"]
HOP_BYTES = 64 * 1024
"""What could be sent while waiting for one hop: half a millisecond at 1 Gbit/s."""


def sent_bytes(topology: Topology, members: int, payload_bytes: int) -> int:
    """Bytes that the busiest member sends in one collective of a first attempt, framing included.

    Slices are taken to be as equal as whole bytes allow: exact when N divides the payload.
    """
    assert members >= 1
    others = members - 1
    if topology == "butterfly":
        return others * (2 * -(-payload_bytes // members) + 2 * HEADER_BYTES)
    return others * (payload_bytes + HEADER_BYTES)


def cost(topology: Topology, members: int, payload_bytes: int) -> int:
    """Bytes through the busiest member's link, each hop counted as HOP_BYTES."""
    hops = 1 if topology == "gather" else 2
    return sent_bytes(topology, members, payload_bytes) + hops * HOP_BYTES


def choose_topology(
    members: int, elements_bytes: int, dense: bool, exchange: Literal["reduce", "gather", "pairs"]
) -> Topology:
    """The cheapest topology for `members` with payloads of `elements_bytes`.

    A butterfly needs a strategy that asks only for the mean (`exchange` "reduce") and a codec whose slices can be
    encoded by themselves (`dense`).
    """
    if members <= 2 or not dense or exchange != "reduce":
        return "gather"
    gather, butterfly = (cost(one, members, elements_bytes) for one in ("gather", "butterfly"))
    return "butterfly" if butterfly < gather else "gather"
