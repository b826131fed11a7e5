"""The cards that a trainer child may use: what bubblewrap must show of them, and what the child's environment says.

Written after NVIDIA's documentation of device nodes and CUDA_VISIBLE_DEVICES. None of it has run on a real card yet: the
machines that this was developed on have none. What it needs beyond this list would show as a child that does not warm
up, so that an offer is not placed, never as a job that trains on something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps")
SYSTEM_FOLDERS = ("/sys/bus/pci", "/sys/devices/system/node")
BOUND_ALREADY = ("/usr", "/lib", "/lib64", "/lib32")


@dataclass(frozen=True, slots=True)
class Device:
    """One NVIDIA card. `uuid`: as CUDA_VISIBLE_DEVICES takes it ("GPU-…"); `minor`: of its node /dev/nvidia<minor>;
    `libraries`: the folder that the driver's libraries were loaded from.
    """

    uuid: str
    minor: int
    libraries: str


def devices_of(described: Sequence[Mapping[str, Any]]) -> tuple[Device, ...]:
    """From the fields of each, as they travel."""
    return tuple(Device(str(one["uuid"]), int(one["minor"]), str(one["libraries"])) for one in described)


def bubblewrap_arguments(devices: Sequence[Device], nodes: Path = Path("/dev")) -> list[str]:
    """Options that show these cards and no other: their nodes, the driver's common ones, its libraries read-only.

    `nodes`: the folder of device nodes. Nodes that only some drivers have are shown where they are.
    """
    if not devices:
        return []
    command: list[str] = []
    own = [f"nvidia{device.minor}" for device in devices]
    for name in node_names(devices):
        if name in own or (nodes / name).exists():
            command += ["--dev-bind", str(nodes / name), f"/dev/{name}"]
    for folder in dict.fromkeys(device.libraries for device in devices):
        if not any(Path(folder).is_relative_to(bound) for bound in BOUND_ALREADY):
            command += ["--ro-bind", folder, folder]
    for folder in SYSTEM_FOLDERS:
        command += ["--ro-bind-try", folder, folder]
    return command


def node_names(devices: Sequence[Device]) -> list[str]:
    """Names below /dev of these cards and of what the driver has for all cards; none without cards."""
    return [*(f"nvidia{device.minor}" for device in devices), *SHARED_NODES] if devices else []


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """What CUDA reads; without devices it sees none, whatever the machine has.

    CUBLAS_WORKSPACE_CONFIG is what PyTorch asks for where results are to repeat bit for bit.
    """
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(device.uuid for device in devices)}
    if not devices:
        return visible
    folders = ":".join(dict.fromkeys(device.libraries for device in devices))
    return {**visible, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "LD_LIBRARY_PATH": folders}
