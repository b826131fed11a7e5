"""How the inner loop computes: a job's section `train` as a value. No torch: forms and workers may read it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class InnerOptions:
    """Parameters and everything that leaves the child are float32 whatever `precision` says.

    precision: bf16 and fp16 compute the forward pass in autocast; fp16 scales the loss.
    accumulate: micro-batches of one step; the step's gradient is the mean of theirs.
    compile: the model through torch.compile. activation_checkpointing: blocks are computed again in the backward pass.
    processes: ranks on this machine; each has batches of its own, the gradient is the mean of theirs.
    sharding: every rank has the whole model (ddp) or a part of each tensor (fsdp2).
    clip: largest norm of a step's gradient, 0 for any.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    compile: bool = False
    activation_checkpointing: bool = False
    processes: int = 1
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    clip: float = 1.0


def inner_options(spec: Mapping[str, Any]) -> InnerOptions:
    """From a job spec, with or without a section `train`. Raises ValueError for what makes no sense."""
    given = spec.get("train") or {}
    unknown = sorted(set(given) - {one.name for one in fields(InnerOptions)})
    if unknown:
        raise ValueError(f"train.{unknown[0]} is no option")
    made = InnerOptions(**given)
    checks = {
        "precision": made.precision in ("fp32", "bf16", "fp16"),
        "sharding": made.sharding in ("ddp", "fsdp2"),
        "accumulate": type(made.accumulate) is int and made.accumulate >= 1,
        "processes": type(made.processes) is int and made.processes >= 1,
        "compile": type(made.compile) is bool,
        "activation_checkpointing": type(made.activation_checkpointing) is bool,
        "clip": type(made.clip) in (int, float) and made.clip >= 0,
    }
    for name, right in checks.items():
        if not right:
            raise ValueError(f"train.{name} cannot be {getattr(made, name)!r}")
    return made
