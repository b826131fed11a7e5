"""The example of a batch job goes on from what it saved, and ends with the very bytes of a run that nothing interrupts."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "batch" / "byte_lm.py"


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """The example sets what holds for its whole process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(deterministic)


def test_it_ends_with_the_same_bytes_wherever_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(kept: str, steps: int) -> bytes:
        (tmp_path / kept).mkdir(exist_ok=True)
        monkeypatch.setenv("TORG_CHECKPOINT_DIR", str(tmp_path / kept))
        out = tmp_path / f"{kept}-{steps}"
        monkeypatch.setattr("sys.argv", ["byte_lm.py", "--steps", str(steps), "--every", "2", "--out", str(out)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return (out / "weights.bin").read_bytes()

    at_once = run("alone", 5)
    before = run("interrupted", 2)
    capsys.readouterr()
    after = run("interrupted", 5)
    assert capsys.readouterr().out.startswith("begins at step 2\n")
    assert after == at_once != before
