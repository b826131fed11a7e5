"""An ordinary script, and a job on many machines: a classifier of handwritten digits.

    python train_digits.py                              alone, on this machine
    torg run --artifacts out -- python train_digits.py  alone, on a machine of the market
    torg submit 08-script.yaml                          by DiLoCo on one worker or more, who may come and go

`setup` is what the script had anyway; the lines with `torg` are what it takes.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import torg
from trainers.workloads.bundled import digit_images  # as sklearn.datasets.load_digits, in a hundredth of the time


def setup(options):
    """Model, optimizer, batches, loss, held-out batches."""
    images, labels = map(torch.from_numpy, digit_images())
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[360:], order[:360]
    batches = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True)
    held_out = DataLoader(TensorDataset(images[test], labels[test]), batch_size=360)

    width = options.get("width", 128)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.get("lr", 3e-3))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=20)
    return torg.Training(model, optimizer, batches, loss, held_out, schedule=schedule, metrics=metrics, tokens=samples)


def loss(model, batch):
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def metrics(model, batch):
    images, labels = batch
    return {"accuracy": float((model(images).argmax(-1) == labels).float().mean())}


def samples(batch):
    return len(batch[1])


Job = torg.workload(setup)

if __name__ == "__main__":
    trained = torg.train(Job, steps=300)
    Path("out").mkdir(exist_ok=True)
    torch.save(trained.model.state_dict(), "out/model.pt")
