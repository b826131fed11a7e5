"""From a replica's exported state to a model file of named tensors, and every way in which that can be wrong."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from storage.checkpoints import Manifest, ManifestError, TensorEntry
from storage.model_files import model_file
from trainers.replica import Replica

INITIAL = np.linspace(-1, 1, 1000, dtype=np.float32)
SPEC = {"strategy": {"name": "diloco", "inner_steps": 5, "codec": "int8"}, "steps": 10}
REPLICA = Replica(SPEC, INITIAL)
STATE = REPLICA.export()
MANIFEST = Manifest(
    job="job-1", round=1, step=5, parent=None, tensors=(TensorEntry("a", (10, 20), "float32"), TensorEntry("b", (800,), "float32")),
    state="0" * 64, state_bytes=len(STATE), parameters=REPLICA.digest(), strategy={}, code=None, data=None, created_at_ms=1,
)  # fmt: skip


def test_the_tensors_have_their_names_and_shapes_and_the_library_reads_them() -> None:
    tensors = safetensors.numpy.load(model_file(MANIFEST, STATE))
    assert set(tensors) == {"a", "b"}
    assert tensors["a"].shape == (10, 20)
    assert np.array_equal(tensors["a"].reshape(-1), INITIAL[:200])
    assert np.array_equal(tensors["b"], INITIAL[200:])


@pytest.mark.parametrize("at", [0, 12, len(STATE) // 2, len(STATE) - 1])
def test_one_changed_byte_of_the_parameters_or_header_is_found_or_harmless(at: int) -> None:
    changed = bytearray(STATE)
    changed[at] ^= 0x40
    try:
        made = model_file(MANIFEST, bytes(changed))
    except ManifestError:
        return
    assert made == model_file(MANIFEST, STATE), "a change outside the parameters must not reach the model"


@pytest.mark.parametrize("state", [b"", STATE[:100], STATE[:-4], b"\xff" * 64])
def test_bytes_that_are_no_state_are_refused(state: bytes) -> None:
    with pytest.raises(ManifestError):
        model_file(MANIFEST, state)


def test_tensors_that_do_not_fill_the_parameters_are_refused() -> None:
    short = dataclasses.replace(MANIFEST, tensors=MANIFEST.tensors[:1])
    with pytest.raises(ManifestError, match="800 bytes, the parameters 4000"):
        model_file(short, STATE)
