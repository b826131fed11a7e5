"""The bare PyTorch loop: nobody to synchronise with. The speed without a network, and one machine alone."""

from __future__ import annotations

from benchmarks.comparators.loop import Loop, meet, parser


def main() -> None:
    chosen = parser(__doc__).parse_args()
    loop = Loop(chosen)
    meet(chosen.rendezvous, f"ready-{chosen.rank}", "yes")
    for rank in range(chosen.world):  # side by side from the first step on: they share the machine's caches and clock
        meet(chosen.rendezvous, f"ready-{rank}")
    loop.start()
    for step in range(chosen.steps):
        loop.rate(loop.optimizer.param_groups, step)
        loop.optimizer.zero_grad(set_to_none=True)
        loop.backward(loop.model, step)
        loop.optimizer.step()
        loop.stepped(step)


if __name__ == "__main__":
    main()
