"""From a member's exported state to a model file that torch loads strictly, and every way in which that can be wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from storage.checkpoints import Manifest, ManifestError, TensorEntry
from storage.model_files import model_config, model_file, parameters_digest
from storage.restore_plans import RestorePlan, restore_plans
from tests.trainers.kept_model import Net
from trainers.layout import layout_of
from trainers.member import Member
from trainers.naming import export_buffers, tied_names

INITIAL = np.linspace(-1, 1, 1000, dtype=np.float32)
SPEC = {"strategy": {"name": "diloco", "inner_steps": 5, "codec": "int8"}, "steps": 10, "seed": 1}
MEMBER = Member(SPEC, layout_of([("a", (10, 20)), ("b", (800,))]), INITIAL)
STATE = MEMBER.export()
MANIFEST = Manifest(
    job="job-1", round=1, step=5, parent=None, tensors=(TensorEntry("a", (10, 20), "float32"), TensorEntry("b", (800,), "float32")),
    state="0" * 64, state_bytes=len(STATE), parameters=MEMBER.digest(), strategy={}, code=None, data=None, created_at_ms=1,
)  # fmt: skip


def plan_of(manifest: Manifest) -> RestorePlan:
    return restore_plans([manifest])[0]


def written(manifest: Manifest, state: bytes) -> bytes:
    return b"".join(model_file(plan_of(manifest), state))


class Tied(torch.nn.Module):
    """An embedding that is the head too, and a mask that is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 3)
        self.middle = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(3), persistent=False)


def test_the_tensors_have_their_names_and_shapes_and_the_library_reads_them() -> None:
    tensors = safetensors.numpy.load(written(MANIFEST, STATE))
    assert set(tensors) == {"a", "b"}
    assert tensors["a"].shape == (10, 20)
    assert np.array_equal(tensors["a"].reshape(-1), INITIAL[:200])
    assert np.array_equal(tensors["b"], INITIAL[200:])


def test_torch_loads_it_strictly_into_a_model_with_tied_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, other = Tied(), Tied()
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    flat = np.concatenate([parameter.detach().numpy().reshape(-1) for parameter in model.parameters()])
    state = Member(SPEC, layout_of(shapes), flat).export()
    manifest = dataclasses.replace(
        MANIFEST, tensors=tuple(TensorEntry(name, shape, "float32") for name, shape in shapes),
        parameters=parameters_digest(state), tied=tied_names(model),
    )  # fmt: skip
    assert Manifest.decode(manifest.encode()).tied == {"head.weight": "embedding.weight"}
    path = tmp_path / "model.safetensors"
    path.write_bytes(written(manifest, state))
    other.load_state_dict(safetensors.torch.load_file(path), strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata()["format"] == "pt"


def test_buffers_of_every_width_lie_where_torch_can_read_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, other = Net(), Net()
    model(torch.randint(11, (4, 5)))  # running statistics of its own
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    flat = np.concatenate([parameter.detach().numpy().reshape(-1) for parameter in model.parameters()])
    state, buffers = Member(SPEC, layout_of(shapes), flat).export(), export_buffers(model)
    manifest = dataclasses.replace(
        MANIFEST, tensors=tuple(TensorEntry(name, shape, "float32") for name, shape in shapes),
        parameters=parameters_digest(state), tied=tied_names(model),
    )  # fmt: skip
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"".join(model_file(plan_of(manifest), state, buffers)))
    found = safetensors.torch.load_file(path)
    other.load_state_dict(found, strict=True)
    assert set(found) == set(model.state_dict())
    assert (found["norm.num_batches_tracked"].dtype, found["mask"].dtype) == (torch.int64, torch.bool)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found[name]), name
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(safetensors.torch.load(written(manifest, state)), strict=True)


TWIN = safetensors.torch.save({"a": torch.zeros(3)})
SOUND = safetensors.torch.save({"mask": torch.zeros(3), "count": torch.zeros((), dtype=torch.int64)})


@pytest.mark.parametrize(
    "file",
    [b"", b"junk" * 9, b"\2\0\0\0\0\0\0\0[]", TWIN, SOUND[:-1], SOUND + b"x", SOUND.replace(b"F32", b"F99"),
     SOUND.replace(b"[3]", b"[4]"), SOUND.replace(b"[8,20]", b"[9,20]"), SOUND.replace(b"[8,20]", b"[8,-1]")],
    ids=["empty", "junk", "a list", "a parameter", "short", "long", "kind", "shape", "gap", "backwards"],
)  # fmt: skip
def test_a_file_that_does_not_hold_the_buffers_it_describes_is_refused(file: bytes) -> None:
    assert len(model_file(plan_of(MANIFEST), STATE, SOUND)) == 4
    with pytest.raises(ManifestError):
        model_file(plan_of(MANIFEST), STATE, file)


def test_a_config_says_how_to_build_the_model() -> None:
    workload = {"kind": "customer", "class_name": "Mine", "filename": "m.py", "digest": "0" * 64}
    spec = {"workload": workload, "options": {"size": "1M"}, "seed": 4}
    config = model_config(plan_of(MANIFEST), {"spec": spec}, [])
    assert (config["model_type"], config["options"]) == ("Mine", {"size": "1M"})
    assert (config["parameters"], config["tensors"]["a"]) == (1000, [10, 20])


def evaluated(round: int, loss: float | None, **metrics: float) -> dict[str, Any]:
    return {"round": round, "loss": loss, "metrics": metrics}


@pytest.mark.parametrize(
    ("rounds", "told"),
    [
        ([], (None, None, {})),
        ([evaluated(7, None)], (None, None, {})),
        ([evaluated(7, 2.5, accuracy=0.5, f1=0.25)], (7, 2.5, {"accuracy": 0.5, "f1": 0.25})),
        ([evaluated(5, 2.75), evaluated(3, 3.0, accuracy=0.25), evaluated(7, None)], (5, 2.75, {})),
        ([evaluated(8, 2.0, accuracy=0.75), evaluated(6, 2.5, accuracy=0.5)], (6, 2.5, {"accuracy": 0.5})),
        ([{"round": 7, "loss": 2.5}], (7, 2.5, {})),
    ],
    ids=["no round", "none yet", "of this round", "of one before", "not of a later one", "an older market"],
)
def test_a_config_tells_the_last_evaluation_up_to_its_round(
    rounds: list[dict[str, Any]], told: tuple[Any, ...]
) -> None:
    spec = {"workload": {"name": "digits"}, "options": {}, "seed": 4}
    config = model_config(plan_of(dataclasses.replace(MANIFEST, round=7)), {"spec": spec}, rounds)
    assert (config["held_out_round"], config["held_out_loss"], config["held_out_metrics"]) == told


@pytest.mark.parametrize("at", [0, 12, len(STATE) // 2, len(STATE) - 1])
def test_one_changed_byte_of_the_parameters_or_header_is_found_or_harmless(at: int) -> None:
    changed = bytearray(STATE)
    changed[at] ^= 0x40
    try:
        made = written(MANIFEST, bytes(changed))
    except ManifestError:
        return
    assert made == written(MANIFEST, STATE), "a change outside the parameters must not reach the model"


@pytest.mark.parametrize("state", [b"", STATE[:100], STATE[:-4], b"\xff" * 64])
def test_bytes_that_are_no_state_are_refused(state: bytes) -> None:
    with pytest.raises(ManifestError):
        written(MANIFEST, state)


def test_tensors_that_do_not_fill_the_parameters_are_refused() -> None:
    short = dataclasses.replace(MANIFEST, tensors=MANIFEST.tensors[:1])
    with pytest.raises(ManifestError, match="800 bytes, the parameters 4000"):
        written(short, STATE)
