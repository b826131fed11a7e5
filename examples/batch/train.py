"""A classifier of handwritten digits in plain PyTorch: nothing in this file knows of torg.

python train.py --epochs 10
"""

import argparse
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels))
    test, train = order[:360], order[360:]
    held_images, held_labels = images[test].to(device), labels[test].to(device)

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    accuracy = 0.0
    for epoch in range(1, arguments.epochs + 1):
        total = 0.0
        for batch in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.cross_entropy(model(images[batch].to(device)), labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        with torch.no_grad():
            accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
        print(f"epoch {epoch}: loss {total / len(train):.4f}, held-out accuracy {accuracy:.4f}")

    arguments.out.mkdir(exist_ok=True)
    torch.save(model.state_dict(), arguments.out / "model.pt")
    (arguments.out / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "epochs": arguments.epochs}) + "\n")


if __name__ == "__main__":
    main()
