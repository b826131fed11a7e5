"""Which cards a provider offers and which worker gets which, on machines that are described, not had."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.actors import stable
from market.actors.cards import Card, CardPool, claim, driver_folder, visible
from market.actors.host_config import ConfigRefused, Hardware, HostConfig, find_hardware
from trainers.devices import Device


def card(minor: int, model: str = "RTX4090", vram_gib: float = 24.0) -> Card:
    return Card(model, vram_gib, Device(f"GPU-{secrets.token_hex(8)}-{minor}", minor, "/opt/driver"))


def config(tmp_path: Path, **given: Any) -> HostConfig:
    return HostConfig(
        url="http://127.0.0.1:1",
        key="k",
        offer="offer-1",
        name="ada",
        home=tmp_path,
        price_nanos_per_gpu_hour=1,
        **given,
    )


def all_usable(cards: Any) -> tuple[int, str]:
    return len(cards), "2.13.0+cu130"


def none_usable(cards: Any) -> tuple[int, str]:
    return 0, "2.13.0+cpu"


def must_not_ask(*_: Any) -> Any:
    raise AssertionError("nothing is to be asked about cards here")


# what is offered


def test_a_machine_with_cards_offers_all_of_one_model(tmp_path: Path) -> None:
    cards = [card(0), card(1, vram_gib=23.5), card(2, "A100-80GB", 80.0)]
    found = find_hardware(config(tmp_path), lambda: cards, all_usable)
    assert (found.gpu, found.units, found.vram_gib) == ("RTX4090", 2, 23.5)
    assert [one.card for one in found.claims] == cards[:2]
    assert found.cuda
    assert found.threads_per_unit >= 1


def test_two_providers_of_a_machine_offer_different_cards_and_none_twice(tmp_path: Path) -> None:
    cards = [card(0), card(1), card(2)]
    first = find_hardware(config(tmp_path, units=2), lambda: cards, all_usable)
    second = find_hardware(config(tmp_path), lambda: cards, all_usable)
    assert [one.card.device.minor for one in first.claims] == [0, 1]
    assert [one.card.device.minor for one in second.claims] == [2]
    with pytest.raises(ConfigRefused, match="3 of 3 x RTX4090 are offered by another provider"):
        find_hardware(config(tmp_path), lambda: cards, all_usable)
    for one in first.claims:
        one.release()
    assert len(claim(cards, None)) == 2


def test_a_claim_ends_with_its_process() -> None:
    mine = card(0)
    program = (
        "import sys; from market.actors.cards import Card, claim; from trainers.devices import Device\n"
        f"held = claim([Card('T4', 16.0, Device({mine.device.uuid!r}, 0, '/x'))], None)\n"
        "print(len(held), flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        assert claim([mine], None) == ()
        other.kill()
        other.wait()
        assert len(claim([mine], None)) == 1


def test_cards_that_would_not_train_are_not_offered(tmp_path: Path) -> None:
    cards = [card(0), card(1)]
    with pytest.raises(ConfigRefused, match=r"torch 2.13.0\+cpu here can use 0 of 2 cards; install a torch with CUDA"):
        find_hardware(config(tmp_path), lambda: cards, none_usable)
    assert len(claim(cards, None)) == 2, "a refused provider claims nothing"


@pytest.mark.parametrize(
    ("given", "words"), [({"gpu": "H100"}, "1 x H100"), ({"gpu": "RTX4090", "units": 3}, "3 x RTX4090")]
)
def test_cards_that_are_not_there_are_not_offered(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigRefused, match=f"{words} cannot be offered: this machine has RTX4090, RTX4090"):
        find_hardware(config(tmp_path, **given), lambda: [card(0), card(1)], all_usable)
    with pytest.raises(ConfigRefused, match="no card that the NVIDIA driver reports"):
        find_hardware(config(tmp_path, **given), list, all_usable)


def test_cores_are_offered_where_they_are_asked_for_or_nothing_else_is_there(tmp_path: Path) -> None:
    assert find_hardware(config(tmp_path, gpu="cpu", units=2), must_not_ask, must_not_ask) == Hardware("cpu", 2, 0.0)
    assert find_hardware(config(tmp_path, units=1), list, must_not_ask) == Hardware("cpu", 1, 0.0)


@pytest.mark.parametrize(
    ("named", "found"),
    [(None, "ABC"), ("", ""), ("1", "B"), ("2,0", "CA"), ("GPU-b", "B"), ("0,9,1", "A"), ("NoDevFiles", ""), ("1, 1", "B")],
)
def test_only_the_cards_that_cuda_may_see_are_offered(named: str | None, found: str) -> None:
    cards = [Card("T4", 16.0, Device(f"GPU-{one}", at, "/x")) for at, one in enumerate("abc")]
    assert "".join(card.device.uuid[-1].upper() for card in visible(cards, named)) == found


def test_the_folder_of_the_driver_is_where_its_library_was_loaded_from() -> None:
    maps = (
        "7f00-7f01 r-xp 00000000 08:01 11   /usr/lib/libc.so.6\n"
        "7f02-7f03 r--p 00000000 08:01 12   /opt/my driver/lib/libnvidia-ml.so.580.1\n"
    )
    assert driver_folder(maps) == "/opt/my driver/lib"


# who gets which


@given(st.lists(st.one_of(st.integers(0, 4), st.sampled_from(["back"])), max_size=40))
def test_no_card_is_given_to_two(steps: list[int | str]) -> None:
    cards = [card(minor) for minor in range(5)]
    pool, taken = CardPool(list(cards)), []
    for step in steps:
        if step == "back":
            if taken:
                pool.give_back(taken.pop(0))
            continue
        assert isinstance(step, int)
        free = len(pool.free)
        got = pool.take(step)
        assert len(got) == (step if step <= free else 0)
        taken.append(got)
    out = [one for group in taken for one in group]
    assert sorted(one.device.minor for one in [*out, *pool.free]) == [0, 1, 2, 3, 4]


class FakeMethod:
    """A method of an actor; what it is called with is kept."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[Any] = []

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.answer


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Workers as the stable starts them, each a process that only sleeps; Ray is not started."""
    import ray

    workers: list[Any] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start_worker(*, name: str, node_id: str, settings: dict[str, Any]) -> Any:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        processes.append(process)
        ready = FakeMethod({"pid": process.pid, "child_pid": process.pid, "error": None})
        workers.append(SimpleNamespace(name=name, settings=settings, ready=ready, assign=FakeMethod({})))
        return workers[-1]

    monkeypatch.setattr(stable, "start_worker", start_worker)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    yield workers
    for process in processes:
        process.kill()
        process.wait()


def lease(epoch: int, gpus: int) -> dict[str, Any]:
    return {"id": f"lease-{epoch}", "epoch": epoch, "slot": 0, "job": "job-1", "share": None, "gpus": gpus}


def minors(described: list[dict[str, Any]]) -> list[int]:
    return [one["minor"] for one in described]


def test_every_lease_has_cards_of_its_own_and_they_come_back(made: list[Any], tmp_path: Path) -> None:
    hardware = Hardware("RTX4090", 4, 24.0, claim([card(minor) for minor in range(4)], None), threads_per_unit=3)
    node: Any = SimpleNamespace(node_id="abcdef", node_ip="127.0.0.1", temp_dir=str(tmp_path))
    ours = stable.Stable(config(tmp_path, isolation="process"), hardware, node, lambda name: None)

    ours.fill()
    assert minors(made[0].settings["devices"]) == [0]
    assert made[0].settings["threads_per_unit"] == 3
    ours.assign(lease(1, gpus=2))
    assert minors(made[0].assign.calls[0][0]["devices"]) == [0, 1]
    ours.fill()
    ours.assign(lease(2, gpus=1))
    assert minors(made[1].assign.calls[0][0]["devices"]) == [2]
    ours.fill()
    assert minors(made[2].settings["devices"]) == [3]
    with pytest.raises(stable.WorkerEnded, match="1 more cards are wanted, 1 are free"):
        ours.assign(lease(3, gpus=2))

    ours.release(1)
    ours.fill()
    ours.assign(lease(4, gpus=3))
    held = minors(made[-1].assign.calls[0][0]["devices"])
    assert sorted(held) == [0, 1, 3]
    ours.fill()
    assert len(made) == 4, "no unit is free, so nobody waits"
    ours.close()


def test_the_card_that_its_owner_uses_is_the_one_that_is_held(made: list[Any], tmp_path: Path) -> None:
    cards = [card(minor) for minor in range(3)]
    hardware = Hardware("RTX4090", 3, 24.0, claim(cards, None), threads_per_unit=1)
    node: Any = SimpleNamespace(node_id="abcdef", node_ip="127.0.0.1", temp_dir=str(tmp_path))
    ours = stable.Stable(config(tmp_path, isolation="process"), hardware, node, lambda name: None)
    ours.fill()
    ours.assign(lease(1, gpus=1))
    assert ours.on_cards({cards[0].device.uuid}) == {1}
    assert ours.on_cards({cards[1].device.uuid}) == set()
    ours.fill()
    assert minors(made[1].settings["devices"]) == [1]
    ours.wait_warm()
    ours.hold(1, {cards[1].device.uuid})
    ours.fill()
    assert minors(made[2].settings["devices"]) == [2], "who waited on it has gone, and the next waits on another"
    ours.hold(0)
    ours.assign(lease(2, gpus=2))
    assert minors(made[2].assign.calls[0][0]["devices"]) == [2, 1]
