"""A byte-level language model in plain PyTorch that survives its machine: nothing in this file knows of torg.

    python byte_lm.py --steps 300

It saves to the folder that $TORG_CHECKPOINT_DIR names (elsewhere to ./checkpoint), by writing beside and renaming, and goes on
from what it finds there. Every step draws its batch by its own number, so that a run that was interrupted ends with the very
bytes of one that was not.
"""

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch
from torch import nn

CONTEXT, BATCH, WIDTH, LAYERS = 64, 16, 64, 2


class ByteLM(nn.Module):
    """Next byte from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        found = self.bytes(text) + self.places.weight[: text.shape[1]]
        return self.head(self.layers(found, mask=self.mask))


def read_text() -> torch.Tensor:
    """The source of Python's own library, as far as a megabyte goes."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return torch.frombuffer(
        bytearray(b"".join(path.read_bytes() for path in files)[: 1 << 20]), dtype=torch.uint8
    ).long()


def save(folder: Path, state: dict[str, object]) -> None:
    """Whole or not at all."""
    beside = folder / "state.new"
    torch.save(state, beside)
    beside.replace(folder / "state.pt")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps from one save to the next")
    parser.add_argument(
        "--rest", type=float, default=0.0, help="seconds to wait after each step, to have time to kill it"
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    kept = Path(os.environ.get("TORG_CHECKPOINT_DIR", "checkpoint"))
    kept.mkdir(exist_ok=True)
    torch.manual_seed(1)
    torch.set_num_threads(1)  # sums of one order, on however many cores
    torch.use_deterministic_algorithms(True)

    text, model = read_text(), ByteLM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    done = 0
    if (kept / "state.pt").exists():
        state = torch.load(kept / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    print(f"begins at step {done}", flush=True)
    for step in range(done + 1, arguments.steps + 1):
        places = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=torch.Generator().manual_seed(step))
        batch = torch.stack([text[place : place + CONTEXT + 1] for place in places.tolist()])
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % arguments.every == 0 or step == arguments.steps:
            save(kept, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
        time.sleep(arguments.rest)

    arguments.out.mkdir(exist_ok=True)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    (arguments.out / "weights.bin").write_bytes(weights)
    print(f"weights {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
