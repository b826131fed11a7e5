"""Lightning as its own examples use it: a ModelCheckpoint callback, and ckpt_path="last".

It saves at the end of epochs: in the middle of one Lightning begins the data of a plain DataLoader from the beginning again
(it warns of that), so that no resumed run ends as an undisturbed one does, wherever it ran.

python lightning_lm.py --epochs 40
"""

import argparse
import os
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset


class Bytes(lightning.LightningModule):
    """The next byte from sixteen before it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Embedding(256, 32), torch.nn.Flatten(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256)
        )  # fmt: skip

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0][:, :-1]), batch[0][:, -1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lightning.seed_everything(1)
    folder = os.environ.get("TORG_CHECKPOINT_DIR", "checkpoint")
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.frombuffer(
        bytearray(b"".join(path.read_bytes() for path in files)[: 1 << 20]), dtype=torch.uint8
    ).long()
    loader = DataLoader(TensorDataset(text[: 17 * 6_400].view(-1, 17)), batch_size=64)
    keep = ModelCheckpoint(dirpath=folder, save_last=True, every_n_epochs=1)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs, callbacks=[keep], accelerator="cpu", devices=1, deterministic=True, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Bytes()
    print(f"begins from {sorted(os.listdir(folder)) if os.path.isdir(folder) else []}", flush=True)
    trainer.fit(model, loader, ckpt_path="last")
    print(f"ends at step {trainer.global_step}", flush=True)
    Path("out").mkdir(exist_ok=True)
    Path("out/weights.bin").write_bytes(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values()))


if __name__ == "__main__":
    main()
