"""Which topology is chosen, and that the bytes on the sockets are those of the formulas."""

import itertools

import pytest

from tests.trainers.mesh_network import SOON_S, crew_of, eventually, results
from trainers.mesh import choose_topology
from trainers.mesh.cost import Topology, cost, sent_bytes
from trainers.mesh.wire import HANDSHAKE_BYTES, HEADER_BYTES

MB = 1_000_000


@pytest.mark.parametrize(
    ("members", "payload", "dense", "exchange", "expected"),
    [
        (1, 4 * MB, True, "reduce", "gather"),
        (2, 4 * MB, True, "reduce", "gather"),
        (3, 4 * MB, True, "reduce", "butterfly"),
        (8, 4 * MB, True, "reduce", "butterfly"),
        (8, 4 * MB, False, "reduce", "gather"),
        (8, 4 * MB, True, "gather", "gather"),
        (8, 4 * MB, True, "pairs", "gather"),
        (4, 1000, True, "reduce", "gather"),
    ],
)
def test_the_topology_is(members: int, payload: int, dense: bool, exchange: str, expected: str) -> None:
    assert choose_topology(members, payload, dense, exchange) == expected  # type: ignore[arg-type]


def test_no_other_topology_is_cheaper() -> None:
    for members, payload in itertools.product(range(3, 20), (1, 100, 10_000, MB, 400 * MB)):
        chosen = choose_topology(members, payload, True, "reduce")
        assert cost(chosen, members, payload) == min(
            cost(other, members, payload) for other in ("gather", "butterfly", "star")
        )


def test_a_butterfly_sends_twice_all_slices_but_ones_own() -> None:
    framing = 2 * 3 * HEADER_BYTES
    assert sent_bytes("butterfly", 4, 4 * MB) == 2 * 3 * MB + framing


@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("topology", ["gather", "butterfly", "star"])
def test_the_bytes_on_the_wire_are_those_of_the_formula(topology: Topology, members: int) -> None:
    payload, slots, steps = 120_000, list(range(members)), 2
    owners = {"gather": [], "star": [0], "butterfly": slots}[topology]
    with crew_of(members, real=True) as crew:
        crew.set_view(1, 0, slots)
        for step in range(steps):
            if topology == "gather":
                results(crew.gather(slots, step, lambda slot: bytes(payload)))
            else:
                slices = {owner: bytes(payload // len(owners)) for owner in owners}
                results(
                    {s: crew.start(crew.members[s].reduce, step, slices, lambda got: got[0], SOON_S) for s in slots}
                )
        introductions = (members - 1) * HANDSHAKE_BYTES
        busiest = introductions + steps * sent_bytes(topology, members, payload)
        others = busiest if topology != "star" else introductions + steps * (payload + HEADER_BYTES)
        expected = {slot: busiest if slot == 0 else others for slot in slots}
        eventually(lambda: {slot: mesh.wire().sent_bytes for slot, mesh in crew.members.items()} == expected)
        received = {slot: mesh.wire().received_bytes for slot, mesh in crew.members.items()}
        assert received == expected, "what goes out comes in"
