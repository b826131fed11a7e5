"""One worker against a bare PyTorch loop: the same model, data and optimiser, round by round in turn in one run.

The worker's side is everything a lease does between two commits: parameters into the sandboxed trainer child, H inner
steps, parameters out, int8 contribution, hold, merge, digest. The bare side is the plain loop, in this process.

    python -m benchmarks.one_worker --json
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import Target, finish, parser, say
from market.packing import pack_stdlib, unpack
from trainers.child_process import JobPackage, TrainerChild
from trainers.member import Member, RoundOrder
from trainers.options import strategy_options
from trainers.sandbox import isolation_level
from trainers.workloads.byte_lm import ByteLM

SEED = 1


def bare_loop(data: Path, size: str, total_steps: int):
    """A generator of (seconds, tokens), one item for each `send(steps)`."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    workload = ByteLM({"size": size}, data, SEED)
    model = workload.model()
    optimizer = workload.optimizer(model, total_steps)
    rates = [group["lr"] for group in optimizer.param_groups]
    done, result = 0, (0.0, 0)
    while True:
        steps = yield result
        begun, tokens = time.perf_counter(), 0
        for step in range(done, done + steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * workload.schedule(step, total_steps)
            batch = workload.batch(SEED, step, 0)
            loss = workload.loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tokens += workload.tokens(batch)
        done += steps
        result = (time.perf_counter() - begun, tokens)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--inner-steps", type=int, default=30)
    arguments.add_argument("--size", default="1M")
    chosen = arguments.parse_args()
    total = (chosen.rounds + 1) * chosen.inner_steps
    strategy = strategy_options({"name": "diloco", "inner_steps": chosen.inner_steps})
    spec = {"workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": chosen.size}, "data": {"kind": "none"},
            "strategy": strategy, "steps": total, "rounds": chosen.rounds + 1, "seed": SEED}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="torg-bench-") as folder:
        scratch = Path(folder)
        pack_stdlib(scratch / "corpus.tar")
        with (scratch / "corpus.tar").open("rb") as archive:
            unpack(archive, scratch / "data")
        begun = time.perf_counter()
        child = TrainerChild.spawn(
            threads=1, scratch=scratch, memory_limit_bytes=4 << 30, shares={}, isolation=isolation_level()
        )
        with child:
            child.wait_ready(120)
            warm_s = time.perf_counter() - begun
            idle_bytes = child.rss_bytes()
            begun = time.perf_counter()
            loaded = child.load(JobPackage(spec, None, str(scratch / "data")), 120)
            member = Member(spec, loaded.tensors, loaded.initial)
            child.train(member.parameters, round=0, first_step=0, steps=1, worker=0, evaluate=False, timeout_s=120)
            first_step_s = time.perf_counter() - begun
            bare = bare_loop(scratch / "data", chosen.size, total)
            next(bare)
            bare.send(chosen.inner_steps)
            ratios, ours, theirs, outer_s = [], [], [], []
            for number in range(1, chosen.rounds + 1):
                begun = time.perf_counter()
                trained = child.train(
                    member.parameters, round=number, first_step=(number - 1) * chosen.inner_steps,
                    steps=chosen.inner_steps, worker=0, evaluate=False, timeout_s=600,
                )  # fmt: skip
                merging = time.perf_counter()
                first = (number - 1) * chosen.inner_steps
                last = number * chosen.inner_steps
                member.contribute(trained.parameters, RoundOrder(number, first, last, last, (0,)))
                member.merge({0: member.payload()})
                member.commit()
                outer_s.append(time.perf_counter() - merging)
                our_rate = trained.tokens / (time.perf_counter() - begun)
                seconds, tokens = bare.send(chosen.inner_steps)
                ours.append(our_rate)
                theirs.append(tokens / seconds)
                ratios.append(ours[-1] / theirs[-1])
                say(
                    chosen.json,
                    f"round {number}: {ours[-1]:.0f} tokens/s, bare {theirs[-1]:.0f}, loss {trained.loss:.3f}",
                )
    figures = {
        "tokens_per_s": statistics.median(ours),
        "bare_tokens_per_s": statistics.median(theirs),
        "speed_ratio_to_bare": statistics.median(ratios),
        "outer_step_ms": 1000 * statistics.median(outer_s),
        "parameters": float(loaded.initial.size),
        "child_warm_s": warm_s,
        "child_idle_mib": idle_bytes / 2**20,
        "load_to_first_step_s": first_step_s,
    }
    targets = {
        "speed_ratio_to_bare": Target(figures["speed_ratio_to_bare"], 0.98, at_most=False),
        "load_to_first_step_s": Target(first_step_s, 1.0),
    }
    return finish(figures, targets, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
