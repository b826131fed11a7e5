"""What a customer brings: a model, data by (seed, step, worker) or by a batch's number in the job, and a loss.

A file with one subclass of `Workload` is a whole job. It runs inside the trainer child (no network, no fork, torch on
the CPU threads it was leased), so it may import only torch, numpy and the standard library.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainers.preparing import blocks_of
from trainers.workloads import BUILT_IN, nearest_name

__all__ = ["BUILT_IN", "OnePass", "Workload", "built_in"]

Batch = Any  # whatever `batch` returns and `loss` understands; usually a tensor or a tuple of tensors


class Workload(ABC):
    """One training job. Write `model`, `batch` or `stream_batch`, `held_out`, `loss`; the rest has defaults that work.

    Every worker makes the same model from the same seed: do not draw initial weights from any other source.

    Make model and batches on the CPU. On a leased card the model lies on the first one (`cuda`), and `loss` gets its
    batch there: tensors in tuples, lists and dicts are moved. A tensor that `loss` makes itself belongs on that device.
    """

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        """`options` is the job file's, `data` the folder with the job's data (None without), `seed` the job's."""
        self.options = options
        self.data = data
        self.seed = seed

    @abstractmethod
    def model(self) -> torch.nn.Module:
        """A new model. Called once, after `torch.manual_seed(seed)`. Its parameters must never change shape."""

    def batch(self, seed: int, step: int, worker: int) -> Batch:
        """The batch of one inner step of one worker; the same arguments give the same batch on every machine.

        `step` is the global step (0, 1, …), or with `adapt: steps` the batch's number in the job; `worker` the ordinal of
        the lease. Both are needed: workers that draw the same batch learn nothing from each other.
        """
        raise TypeError(f"{type(self).__name__} defines neither batch nor stream_batch")

    def stream_batch(self, seed: int, index: int) -> Batch:
        """The batch of that number, which the whole job draws once: for data that are to be read once an epoch.

        The run hands every worker a range of numbers of its own in every round, whoever comes or goes; no number is
        trained on twice, and a number of a round that did not count may be left out. The same arguments give the same
        batch on every machine. `trainers.workloads.streams` turns numbers into samples.
        """
        raise TypeError(f"{type(self).__name__} defines no stream_batch")

    @property
    def streams(self) -> bool:
        """Whether batches are drawn by `stream_batch`: by default when a workload defines it."""
        return type(self).stream_batch is not Workload.stream_batch

    def next_batch(self, seed: int, step: int, worker: int, index: int) -> Batch:
        """What the inner loop calls: `stream_batch` of this index, or `batch` of this step and worker."""
        return self.stream_batch(seed, index) if self.streams else self.batch(seed, step, worker)

    @abstractmethod
    def held_out(self) -> Sequence[Batch]:
        """A fixed list of batches that are never trained on; the mean of their losses is the job's held-out loss."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """A scalar tensor to minimise. Model and batch are on one device."""

    def metrics(self, model: torch.nn.Module, batch: Batch) -> Mapping[str, float]:
        """Further figures of a held-out batch, such as {"accuracy": 0.97}; their means go beside the held-out loss.

        Called without gradients, on the model's device, with the model in evaluation mode. The same names each time: at
        most 16, of at most 40 characters, with finite numbers. Anything else ends the job as an exception does.
        """
        return {}

    def optimizer(self, model: torch.nn.Module, total_steps: int) -> torch.optim.Optimizer:
        """The inner optimiser; its state stays on its worker. Option `optimizer`: adamw (the default) or muon, `lr`: 0.001.

        Matrices decay by 0.1, vectors do not; beta2 = 0.99 as in the DiLoCo scaling laws (arXiv 2503.09799).
        """
        rate, name = float(self.options.get("lr", 1e-3)), self.options.get("optimizer", "adamw")
        if name == "muon":
            from trainers.muon import Muon

            return Muon(model, rate)
        if name != "adamw":
            raise ValueError(f"options.optimizer is {name!r}; it must be adamw or muon")
        matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))

    def checkpointed(self, model: torch.nn.Module) -> Sequence[torch.nn.Module]:
        """Modules that compute their activations again in the backward pass when the job asks for it, to save memory.

        By default the members of every nn.ModuleList, as deep models keep their blocks.
        """
        return blocks_of(model)

    def schedule(self, step: int, total_steps: int) -> float:
        """Factor on the optimiser's learning rate at a global step: linear warm-up, then cosine down to 5 %.

        A function of the global step alone, so that a worker that joins late has the rate of everybody else.
        """
        warm_up = min(100, max(1, total_steps // 20))
        if step < warm_up:
            return (step + 1) / warm_up
        done = min(1.0, (step - warm_up) / max(1, total_steps - warm_up))
        return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * done))

    def learning_rates(self, base: Sequence[float], step: int, total_steps: int) -> list[float]:
        """The rate of each group of parameters at a global step; `base` are those that the optimiser was made with."""
        factor = self.schedule(step, total_steps)
        return [rate * factor for rate in base]

    def tokens(self, batch: Batch) -> int:
        """How much data a batch holds, for the meters: by default the elements of its first tensor."""
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return int(first.numel()) if isinstance(first, torch.Tensor) else 1


class OnePass(Workload):
    """A workload whose loss and figures are both made of the same outputs of its model: a held-out batch passes through the
    model once for both.
    """

    @abstractmethod
    def outputs(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What the model makes of the batch."""

    @abstractmethod
    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `loss`."""

    @abstractmethod
    def metrics_of(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, float]:
        """See `metrics`."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Of the model's outputs."""
        return self.loss_of(self.outputs(model, batch), batch)

    def metrics(self, model: torch.nn.Module, batch: Batch) -> Mapping[str, float]:
        """Of the model's outputs."""
        return self.metrics_of(self.outputs(model, batch), batch)

    @property
    def in_one_pass(self) -> bool:
        """Whether that is so of this class, too: one that is derived from it may have a loss or figures of its own."""
        return type(self).loss is OnePass.loss and type(self).metrics is OnePass.metrics


def built_in(name: str) -> type[Workload]:
    """The built-in workload of that name. Raises LookupError naming the nearest one."""
    if name not in BUILT_IN:
        raise LookupError(f"no built-in workload {name!r}; {nearest_name(name, BUILT_IN)}")
    module_name, class_name = BUILT_IN[name].split(":")
    found = getattr(importlib.import_module(module_name), class_name)
    assert isinstance(found, type)
    assert issubclass(found, Workload)
    return found
