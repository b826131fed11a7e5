"""An existing PyTorch loop as a job that trains on machines that come and go: `torg.workload`, `torg.train`.

    import torg
    Job = torg.workload(setup)         # setup() gives model, optimizer, batches, loss, held_out
    torg.train(Job, steps=300)         # alone, on this machine; `workload: ./train.py:Job` trains on the market's

docs/WORKLOADS.md, «From a script». Importing this package imports no torch; using what it offers does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torg.alone import Trained, train
    from torg.scripts import Training, workload

__all__ = ["Trained", "Training", "train", "workload"]

_HOMES = {"Trained": "torg.alone", "train": "torg.alone", "Training": "torg.scripts", "workload": "torg.scripts"}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"torg has no {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "numpy", "safetensors"):
            raise
        raise ModuleNotFoundError(
            f"torg.{name} needs {error.name}: pip install 'torg[node]'", name=error.name
        ) from None
