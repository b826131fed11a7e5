"""hivemind's Optimizer with local updates: every peer steps by itself, parameters are averaged once a round.

`--delayed` averages in the background (its default); without it the step waits for the average.
"""

from __future__ import annotations

import logging
import os

import hivemind

from benchmarks.comparators.loop import Loop, meet, parser


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--delayed", action="store_true")
    arguments.add_argument("--matchmaking-s", type=float, default=3.0)
    arguments.add_argument("--averaging-s", type=float, default=60.0)
    arguments.add_argument("--compression", choices=("none", "fp16", "int8"), default="none")
    arguments.add_argument(
        "--refresh-s", type=float, default=0.5, help="how often a peer looks at the others' progress, at the least"
    )
    chosen = arguments.parse_args()
    logging.disable(logging.WARNING)
    loop = Loop(chosen)
    compression = {
        "none": hivemind.compression.NoCompression,
        "fp16": hivemind.compression.Float16Compression,
        "int8": hivemind.compression.Uniform8BitQuantization,
    }[chosen.compression]()
    first = [] if chosen.rank == 0 else meet(chosen.rendezvous, "peer").split()
    dht = hivemind.DHT(initial_peers=first, host_maddrs=[f"/ip4/{chosen.address}/tcp/0"], start=True)
    if chosen.rank == 0:
        meet(chosen.rendezvous, "peer", " ".join(map(str, dht.get_visible_maddrs())))
    tracker = {
        "min_refresh_period": chosen.refresh_s,
        "default_refresh_period": 2 * chosen.refresh_s,
        "max_refresh_period": 4 * chosen.refresh_s,
    }
    optimizer = hivemind.Optimizer(
        dht=dht, run_id="benchmark", batch_size_per_step=chosen.batch,
        target_batch_size=chosen.batch * chosen.every * chosen.world, optimizer=loop.optimizer, use_local_updates=True,
        delay_state_averaging=chosen.delayed, matchmaking_time=chosen.matchmaking_s, averaging_timeout=chosen.averaging_s,
        state_averaging_compression=compression, tracker_opts=tracker,
    )  # fmt: skip
    meet(chosen.rendezvous, f"ready-{chosen.rank}", "yes")
    for rank in range(chosen.world):
        meet(chosen.rendezvous, f"ready-{rank}")
    loop.start()
    for step in range(chosen.steps):
        loop.rate(optimizer.param_groups, step)
        optimizer.zero_grad(set_to_none=True)
        loop.backward(loop.model, step)
        optimizer.step()
        loop.stepped(step, {"epoch": optimizer.local_epoch})
    meet(chosen.rendezvous, f"done-{chosen.rank}", "yes")
    for rank in range(chosen.world):
        meet(chosen.rendezvous, f"done-{rank}")
    optimizer.shutdown()
    dht.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
