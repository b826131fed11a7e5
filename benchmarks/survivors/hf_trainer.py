"""Hugging Face's Trainer as its own examples use it: output_dir, save_steps, and the last checkpoint to resume from.

python hf_trainer.py --steps 120
"""

import argparse
import os
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint


class Windows(Dataset):
    """Windows of bytes of Python's own library."""

    def __init__(self) -> None:
        files = sorted(Path(os.__file__).parent.glob("*.py"))
        self.text = b"".join(path.read_bytes() for path in files)[: 1 << 20]

    def __len__(self) -> int:
        return len(self.text) // 64

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        window = torch.tensor(list(self.text[64 * place : 64 * place + 64]))
        return {"input_ids": window, "labels": window}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(1)
    folder = os.environ.get("TORG_CHECKPOINT_DIR", "checkpoint")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=64, n_embd=128, n_layer=4, n_head=4))
    settings = TrainingArguments(
        output_dir=folder, max_steps=arguments.steps, save_steps=arguments.every, save_total_limit=2, logging_steps=arguments.every,
        per_device_train_batch_size=8, report_to=[], use_cpu=True, full_determinism=True, seed=1,
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=Windows())
    last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
    print(f"begins from {os.path.basename(last) if last else 'nothing'}", flush=True)
    trainer.train(resume_from_checkpoint=last)
    Path("out").mkdir(exist_ok=True)
    weights = b"".join(tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values())
    Path("out/weights.bin").write_bytes(weights)


if __name__ == "__main__":
    main()
