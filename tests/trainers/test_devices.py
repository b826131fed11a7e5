"""Cards: what a child is shown of them and told about them. No card is needed here, and none is used."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from trainers.child_process import ChildFailed, TrainerChild
from trainers.devices import Device, bubblewrap_arguments, devices_of, environment
from trainers.loop import on_device
from trainers.sandbox import bubblewrap_command, child_environment

FIRST = Device("GPU-11111111-2222-3333-4444-555555555555", 0, "/opt/driver/lib")
THIRD = Device("GPU-99999999-2222-3333-4444-555555555555", 2, "/opt/driver/lib")
Pair = namedtuple("Pair", "inputs targets")


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """The device folder of a machine with three cards."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "kvm", "sda"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    return tmp_path


def shown(command: list[str], nodes: Path) -> set[str]:
    """Names of the nodes that are bound, each at its own place."""
    bound = [(command[at + 1], command[at + 2]) for at, word in enumerate(command) if word == "--dev-bind"]
    assert all(target == f"/dev/{Path(source).name}" and Path(source).parent == nodes for source, target in bound)
    return {Path(source).name for source, _ in bound}


def test_only_the_leased_cards_are_shown(nodes: Path) -> None:
    command = bubblewrap_arguments([FIRST, THIRD], nodes)
    assert shown(command, nodes) == {"nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps"}
    at = command.index("/opt/driver/lib")
    assert command[at - 1 : at + 2] == ["--ro-bind", "/opt/driver/lib", "/opt/driver/lib"]
    assert command.count("/opt/driver/lib") == 2


def test_what_this_driver_does_not_have_is_not_shown(nodes: Path) -> None:
    (nodes / "nvidia-caps").rmdir()
    (nodes / "nvidia-uvm-tools").unlink()
    assert shown(bubblewrap_arguments([THIRD], nodes), nodes) == {"nvidia2", "nvidiactl", "nvidia-uvm"}


def test_libraries_within_what_is_bound_anyway_are_not_bound_twice(nodes: Path) -> None:
    device = Device("GPU-1", 0, "/usr/lib/x86_64-linux-gnu")
    assert "/usr/lib/x86_64-linux-gnu" not in bubblewrap_arguments([device], nodes)


def test_the_cards_come_before_the_scratch_folder_and_a_core_shows_none(nodes: Path, tmp_path: Path) -> None:
    plain = bubblewrap_command(tmp_path, {}, child_environment(1, "/scratch", "/torg"), None)
    with_card = bubblewrap_command(
        tmp_path, {}, child_environment(1, "/scratch", "/torg", [FIRST]), None, bubblewrap_arguments([FIRST], nodes)
    )
    assert with_card.index("--dev") < with_card.index("--dev-bind") < with_card.index("/scratch")
    assert not [word for word in plain if "nvidia" in word]
    assert bubblewrap_arguments([], nodes) == []


def test_the_environment_names_cards_by_uuid_and_hides_all_from_a_core() -> None:
    told = environment([FIRST, THIRD])
    assert told["CUDA_VISIBLE_DEVICES"] == f"{FIRST.uuid},{THIRD.uuid}"
    assert told["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert told["LD_LIBRARY_PATH"] == "/opt/driver/lib"
    assert environment([]) == {"CUDA_VISIBLE_DEVICES": ""}


def test_devices_travel_as_plain_fields() -> None:
    fields = {"uuid": FIRST.uuid, "minor": 0, "libraries": "/opt/driver/lib"}
    assert devices_of([fields]) == (FIRST,)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_all_tensors_of_a_batch_are_moved_and_its_shape_stays(device: str) -> None:
    one = torch.arange(6).reshape(2, 3)
    batch = {"pair": Pair(one, [one.float(), "text"]), "nested": (one, {"deep": one}), "count": 7, "none": None}
    moved = on_device(batch, torch.device(device))
    tensors = [moved["pair"].inputs, moved["pair"].targets[0], moved["nested"][0], moved["nested"][1]["deep"]]
    assert [tensor.device.type for tensor in tensors] == [device] * 4
    assert [tensor.shape for tensor in tensors] == [one.shape] * 4
    assert tensors[1].dtype == torch.float32
    assert isinstance(moved["pair"], Pair)
    assert (moved["pair"].targets[1], moved["count"], moved["none"]) == ("text", 7, None)
    assert on_device(one, torch.device("cpu")) is one


def test_a_packed_sequence_is_moved_by_its_own_method() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    assert on_device(packed, torch.device("meta")).data.device.type == "meta"


def test_a_child_whose_card_torch_cannot_use_does_not_warm_up(tmp_path: Path) -> None:
    child = TrainerChild.spawn(
        threads=1, scratch=tmp_path, memory_limit_bytes=1 << 30, shares={}, isolation="process", devices=[FIRST]
    )
    with child, pytest.raises(ChildFailed) as failed:
        child.wait_ready(120)
    assert failed.value.kind == "died"
    assert "CUDA" in failed.value.traceback or "NVIDIA" in failed.value.traceback, "torch says it, in words of the build"
