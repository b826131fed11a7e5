"""What all comparators share: the byte_lm job as a plain PyTorch loop, and the lines that they print.

One line a round of `every` steps: {round, step, loss, held_out, seconds, evaluate_s, cpu_s, tokens, sent_bytes,
received_bytes}. `loss` is the mean over the round's steps on this worker's own data; `seconds`, `tokens` and the bytes
count from the first step on; `evaluate_s` is the part of `seconds` that went into held-out evaluation, `cpu_s` this process's processor time; bytes are those of
the worker's network interface (null without one of its own).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.cables import interface_bytes
from trainers.workloads.byte_lm import ByteLM


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every comparator takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rank", type=int, default=0)
    made.add_argument("--world", type=int, default=1)
    made.add_argument("--address", default="127.0.0.1", help="this worker's own address")
    made.add_argument("--rendezvous", type=Path, required=True, help="a folder that all workers of the run see")
    made.add_argument("--interface", default=None, help="whose bytes are counted; none without one of its own")
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--size", default="1M")
    made.add_argument("--context", type=int, default=128)
    made.add_argument("--batch", type=int, default=6)
    made.add_argument("--lr", type=float, default=None)
    made.add_argument("--steps", type=int, required=True)
    made.add_argument("--every", type=int, default=30, help="steps of a round")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--no-evaluation", action="store_true", help="leave the held-out loss out of the clock")
    return made


@dataclass(slots=True)
class _Round:
    loss: float = 0.0
    steps: int = 0


class Loop:
    """The job's workload, model and optimiser on one CPU thread, and the clock that starts with the first step."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        options = {"size": chosen.size, "context": chosen.context, "batch": chosen.batch, "lr": chosen.lr}
        torch.manual_seed(chosen.seed)
        self.workload = ByteLM(options, chosen.data, chosen.seed)
        self.model = self.workload.model()
        self.optimizer = self.workload.optimizer(self.model, chosen.steps)
        self.chosen = chosen
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._held_out = self.workload.held_out()
        self._round = _Round()
        self._tokens, self._evaluate_s, self._began_s = 0, 0.0, 0.0
        self._sent, self._received = 0, 0

    def start(self) -> None:
        """The clock and the counters begin."""
        self._sent, self._received = self._wire() or (0, 0)
        self._began_s = time.monotonic()

    def rate(self, groups: list[dict[str, Any]], step: int) -> None:
        """Set the learning rate of a step."""
        factor = self.workload.schedule(step, self.chosen.steps)
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def backward(self, model: torch.nn.Module, step: int) -> None:
        """Gradients of one step on this worker's own data, clipped to norm 1."""
        batch = self.workload.batch(self.chosen.seed, step, self.chosen.rank)
        loss = self.workload.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._tokens += self.workload.tokens(batch)
        self._round.loss += loss.item()
        self._round.steps += 1

    def stepped(self, step: int, also: Mapping[str, int] = MappingProxyType({})) -> None:
        """Step number `step` (from 0) is done, synchronised if it was to be; at a round's end the line is printed, with
        what is said in `also`.
        """
        done = step + 1
        if done % self.chosen.every == 0 or done == self.chosen.steps:
            self._tell(done, also)

    @torch.no_grad()
    def held_out(self) -> float:
        """Mean loss over the held-out batches."""
        began = time.monotonic()
        self.model.eval()
        losses = [self.workload.loss(self.model, batch).item() for batch in self._held_out]
        self.model.train()
        self._evaluate_s += time.monotonic() - began
        return sum(losses) / len(losses)

    def _tell(self, done: int, also: Mapping[str, int]) -> None:
        evaluates = self.chosen.rank == 0 and not self.chosen.no_evaluation
        seconds, evaluated_s, wire = time.monotonic() - self._began_s, self._evaluate_s, self._wire()
        line = {
            "round": -(-done // self.chosen.every),
            "step": done,
            "loss": self._round.loss / self._round.steps,
            "held_out": self.held_out() if evaluates else None,
            "seconds": seconds,
            "evaluate_s": evaluated_s,
            "cpu_s": time.process_time(),
            "tokens": self._tokens,
            "sent_bytes": None if wire is None else wire[0] - self._sent,
            "received_bytes": None if wire is None else wire[1] - self._received,
            **also,
        }
        self._round = _Round()
        print(json.dumps(line), flush=True)

    def _wire(self) -> tuple[int, int] | None:
        if self.chosen.interface is None:
            return None
        return interface_bytes(Path("/proc/net/dev").read_text(), self.chosen.interface)


def meet(folder: Path, name: str, value: str | None = None, timeout_s: float = 120.0) -> str:
    """Tell the other workers `value` under a name, or wait until one has told it."""
    path = folder / name
    if value is not None:
        (folder / f"{name}.part").write_text(value)
        (folder / f"{name}.part").rename(path)
        return value
    until = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > until:
            sys.exit(f"no worker told {name} within {timeout_s:.0f} s")
        time.sleep(0.02)
    return path.read_text()
