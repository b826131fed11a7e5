"""How much of a file that a command saves again travels: blocks of a fixed size against blocks cut by content.

    python -m benchmarks.blocks [--json]

Files as training leaves them, each saved eight times: a PyTorch checkpoint (parameters and AdamW's state) of which everything
trains; one of which a quarter trains (a frozen backbone); the same with a history of losses in it, which grows; and a log
that is appended to. A figure is what is new after the first save, as a share of all that was saved: less is better.
`cut_…` is FastCDC's scheme with its gear hash over 32 bytes and a mean of so much (minimum a quarter, maximum four times).
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.report import finish, parser, say

SAVES = 8
WIDTH, LAYERS = 512, 8
KIB = 1024
Blocks = Callable[[bytes], Iterator[bytes]]


def fixed(size: int) -> Blocks:
    """Blocks of that many bytes."""

    def blocks(data: bytes) -> Iterator[bytes]:
        yield from (data[at : at + size] for at in range(0, len(data), size))

    return blocks


def cut(mean: int) -> Blocks:
    """Blocks that end where the last 32 bytes say so."""
    gear = np.random.default_rng(1).integers(0, 2**32, 256, dtype=np.uint32)
    mask = np.uint32((mean - 1) << (32 - mean.bit_length() + 1))

    def blocks(data: bytes) -> Iterator[bytes]:
        rolling = gear[np.frombuffer(data, np.uint8)]
        for shift in (1, 2, 4, 8, 16):  # by doubling: the hash of 2, 4, … 32 bytes
            rolling[shift:] = rolling[shift:] + (rolling[:-shift] << np.uint32(shift))
        ends = np.flatnonzero((rolling & mask) == 0) + 1
        begin = 0
        while begin < len(data):
            place = np.searchsorted(ends, begin + mean // 4)
            end = int(ends[place]) if place < len(ends) else len(data)
            end = min(end, begin + 4 * mean, len(data))
            yield data[begin:end]
            begin = end

    return blocks


def checkpoints(*, frozen: bool, history: bool) -> Iterator[bytes]:
    """One training's saves."""
    torch.manual_seed(1)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
    model = torch.nn.Sequential(*layers)
    for layer in layers[: 3 * LAYERS // 4] if frozen else []:
        layer.requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    losses: list[float] = []
    for _ in range(SAVES):
        for _ in range(20):
            loss = model(torch.randn(16, WIDTH)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": len(losses)}
        made = io.BytesIO()
        torch.save(state | ({"losses": losses} if history else {}), made)
        yield made.getvalue()


def log() -> Iterator[bytes]:
    """A log that grows by about 1 MB between saves."""
    text = b""
    for save in range(SAVES):
        text += b"".join(b"step %d loss %.6f\n" % (40_000 * save + step, 1 / (1 + step)) for step in range(40_000))
        yield text


FILES: dict[str, Callable[[], Iterator[bytes]]] = {
    "all_trains": lambda: checkpoints(frozen=False, history=False),
    "quarter_trains": lambda: checkpoints(frozen=True, history=False),
    "quarter_trains_history": lambda: checkpoints(frozen=True, history=True),
    "log": log,
}
SCHEMES = {
    "fixed_64k": fixed(64 * KIB), "fixed_256k": fixed(256 * KIB), "fixed_1m": fixed(1024 * KIB), "fixed_4m": fixed(4096 * KIB),
    "cut_64k": cut(64 * KIB), "cut_256k": cut(256 * KIB), "cut_1m": cut(1024 * KIB),
}  # fmt: skip


def main() -> int:
    """See the module."""
    chosen = parser(__doc__).parse_args()
    figures: dict[str, float] = {}
    for kind, make in FILES.items():
        saves = list(make())
        for name, blocks in SCHEMES.items():
            held: set[bytes] = set()
            new, began = 0, time.perf_counter()
            for number, data in enumerate(saves):
                for block in blocks(data):
                    digest = hashlib.sha256(block).digest()
                    new += len(block) if number and digest not in held else 0
                    held.add(digest)
            mb_per_s = sum(map(len, saves)) / 1e6 / (time.perf_counter() - began)
            share = new / sum(map(len, saves[1:]))
            figures |= {
                f"{kind}_{name}_share": share,
                f"{kind}_{name}_blocks": len(held),
                f"{kind}_{name}_mb_per_s": mb_per_s,
            }
            say(chosen.json, f"{kind:24} {name:10} {share:6.1%} in {len(held):4} blocks at {mb_per_s:4.0f} MB/s")
    return finish(figures, {}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
