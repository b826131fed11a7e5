"""A byte-level language model in plain PyTorch, with DistributedDataParallel: nothing in this file knows of torg.

    torchrun --standalone --nproc-per-node 2 ddp.py --steps 300          on this machine
    torg run --workers 2 --launch torchrun -- python ddp.py --steps 300  on somebody's (see ddp.yaml)

Each rank takes its card by LOCAL_RANK and NCCL, or gloo where there are none. Rank 0 saves to the folder that
$TORG_CHECKPOINT_DIR names (elsewhere to ./checkpoint), by writing beside and renaming, and all go on from what they find there.
Every rank draws its batch by step and rank, so that a run that was interrupted ends with the very bytes of one that was not.
"""

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CONTEXT, BATCH, WIDTH = 32, 16, 64


class ByteModel(nn.Module):
    """Next byte from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.memory = nn.GRU(WIDTH, 2 * WIDTH, batch_first=True)
        self.head = nn.Linear(2 * WIDTH, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.memory(self.bytes(text))[0])


def read_text() -> torch.Tensor:
    """The source of Python's own library, as far as a megabyte goes."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = b"".join(path.read_bytes() for path in files)[: 1 << 20]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batch_of(text: torch.Tensor, step: int, rank: int) -> torch.Tensor:
    """The same on every machine, another one for each step and rank."""
    draw = torch.Generator().manual_seed(1_000_003 * step + rank)
    places = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=draw)
    return torch.stack([text[place : place + CONTEXT + 1] for place in places.tolist()])


def save(folder: Path, state: dict[str, object]) -> None:
    """Whole or not at all."""
    beside = folder / "state.new"
    torch.save(state, beside)
    beside.replace(folder / "state.pt")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps from one save to the next")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds to wait after each step, to have time to kill it")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    cards = torch.cuda.is_available()
    device = torch.device("cuda", local) if cards else torch.device("cpu")
    if cards:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cards else "gloo")
    kept = Path(os.environ.get("TORG_CHECKPOINT_DIR", "checkpoint"))
    kept.mkdir(exist_ok=True)
    torch.manual_seed(1)
    torch.set_num_threads(1)  # sums of one order, on however many cores
    torch.use_deterministic_algorithms(True)

    text, model = read_text(), ByteModel().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    done = 0
    if (kept / "state.pt").exists():
        state = torch.load(kept / "state.pt", weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    dist.barrier()  # all have read it before rank 0 writes the next one
    parallel = DistributedDataParallel(model, device_ids=[local] if cards else None)
    if rank == 0:
        print(f"begins at step {done} with {dist.get_world_size()} ranks", flush=True)
    for step in range(done + 1, arguments.steps + 1):
        batch = batch_of(text, step, rank).to(device)
        loss = nn.functional.cross_entropy(parallel(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step % arguments.every == 0 or step == arguments.steps):
            save(kept, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
        time.sleep(arguments.rest)

    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values())
    print(f"weights {hashlib.sha256(weights).hexdigest()}")  # the same of every rank
    if rank == 0:
        arguments.out.mkdir(exist_ok=True)
        (arguments.out / "weights.bin").write_bytes(weights)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
