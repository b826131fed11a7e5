"""What a provider says of its machine is believed to be its word when its key signed it for this very lease."""

from typing import Any

import pytest

from market.actors.machine_facts import machine_facts
from market.commands import StartLease
from storage.machines import sign_machine
from storage.provenance import new_signing_key
from tests.market.scene import Scene

KEY = new_signing_key()
Json = dict[str, Any]


def granted() -> tuple[Scene, Json]:
    scene = Scene()
    scene.offer("o1", "p1", 0.5)
    scene.offer("o2", "p2", 0.6)
    scene.submit()
    scene.clear()
    found = scene.exchange.leases_of("o1")
    assert found is not None
    lease: Json = found["leases"][0]
    return scene, lease


def started(lease: Json, machine: Json | None) -> StartLease:
    return StartLease(lease["id"], lease["epoch"], "w", 1, "node", "p1", machine=machine)


def test_it_stands_in_the_journal_as_it_was_signed() -> None:
    scene, lease = granted()
    machine = sign_machine(lease["id"], lease["epoch"], machine_facts("cpu", 2, 4), KEY)
    scene.do(started(lease, machine))
    found = scene.of_type("lease_started")[0]["machine"]
    assert found == machine
    assert (found["facts"]["gpu"], found["facts"]["gpus"], found["facts"]["threads"]) == ("cpu", 2, 4)
    assert len(found["facts"]["packages_sha256"]) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"gpu": "H100"}}, {"facts": {}}, {"facts": {"gpu": ["H100"]}}, {"facts": {"gpu": "x" * 257}}, {"facts": 7},
        {"public_key": "00" * 32}, {"signature": "zz"}, {"signature": 7}, {"more": 1},
    ],
)  # fmt: skip
def test_what_was_not_signed_is_refused(change: Json) -> None:
    scene, lease = granted()
    machine = sign_machine(lease["id"], lease["epoch"], {"gpu": "cpu"}, KEY)
    refused = scene.refused(started(lease, machine | change))
    assert (refused.code, refused.field) == ("invalid", "machine")


def test_what_was_signed_for_another_lease_is_refused() -> None:
    scene, lease = granted()
    other = sign_machine(lease["id"], lease["epoch"] + 1, {"gpu": "cpu"}, KEY)
    assert scene.refused(started(lease, other)).field == "machine"
    scene.do(started(lease, None))
