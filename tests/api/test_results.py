"""What a job made durable, fetched again: bases and deltas, of the end and of rounds before, as files that torch loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cli.main import run
from market.client import Market
from storage.checkpoints import Delta, Manifest, TensorEntry
from tests.api.square import USD, FakeProvider, FakeRun, Json, Square, make_offer, make_spec, refusal
from trainers.layout import layout_of
from trainers.member import Member, RoundOrder
from trainers.workload import built_in

OPTIONS = {"size": "10k", "context": 16}
BUFFERS = safetensors.torch.save({"kept.steps": torch.tensor(7)})


class TrainedRun(FakeRun):
    """Its states are a real member's. `kept`: what a keeper would keep."""

    def __init__(self, market: Market, job: str, model: torch.nn.Module) -> None:
        super().__init__(market, job)
        shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
        self.member = Member(make_spec("nowhere"), layout_of(shapes), flat_of(model))
        self.manifests: list[Manifest] = []
        self.parameters: dict[int, np.ndarray] = {}
        self.tensors = tuple(TensorEntry(name, shape, "float32") for name, shape in shapes)

    def durable(self, kind: str) -> None:
        """Train the round that was reported, and make it durable."""
        number = self.round
        order = RoundOrder(number, 30 * (number - 1), 30 * number, number, (0,))
        self.member.contribute(self.member.parameters + np.float32(0.01 * number), order)
        self.member.merge({0: self.member.payload()})
        self.member.commit()
        self.parameters[number] = self.member.parameters
        assert self.member.bundle is not None
        content = self.member.export() if kind == "base" else self.member.bundle.pack()
        blob, buffers = self.market.upload(content), self.market.upload(BUFFERS)
        if kind == "base":
            made = Manifest(
                job=self.job, round=number, step=30 * number, parent=self.manifest, tensors=self.tensors, state=blob,
                state_bytes=len(content), parameters=self.member.digest(), strategy={"name": "diloco"}, code=None,
                data=None, created_at_ms=number, buffers=buffers, buffers_bytes=len(BUFFERS),
            )  # fmt: skip
        else:
            delta = Delta(number, 30 * number, blob, len(content), self.member.digest())
            last = self.manifests[-1]
            made = replace(
                last, kind="delta", round=number, step=30 * number, parent=self.manifest, parameters=delta.parameters,
                base=last.base or last.digest, deltas=(*last.deltas, delta), created_at_ms=number,
            )  # fmt: skip
        self.manifests.append(made)
        self.manifest = self.market.upload(made.encode())
        body = {"job": self.job, "round": number, "step": 30 * number, "manifest": self.manifest, "bytes": len(content),
                "stall_ms": 1, "removed": [], "kind": kind, "base_round": made.base_round}  # fmt: skip
        self.market.report_checkpoint(body)


def result(job: str, folder: Path, *more: str) -> int:
    return run(["result", job, "-o", str(folder), *more])


def loaded(folder: Path) -> torch.nn.Module:
    """The model as `transformers`-style code would make it: from config.json, then strictly."""
    config = json.loads((folder / "config.json").read_text())
    model = made(config["model_type"], config["options"], config["seed"], folder.parent)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    assert tensors.pop("kept.steps") == 7
    model.load_state_dict(tensors, strict=True)
    return model


def made(name: str, options: Json, seed: int, scratch: Path) -> torch.nn.Module:
    data = scratch / "text"
    data.write_bytes(b"the same line again and again\n" * 100)
    torch.manual_seed(seed)
    return built_in(name)(options, data, seed).model()


def flat_of(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().numpy().reshape(-1) for parameter in model.parameters()])


def test_every_kept_round_of_a_job_can_be_had_as_a_model(
    square: Square, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    region, job = square.name("region"), square.name("job")
    name = square.name("customer")
    key = square.local("operator").add_member(name, "customer")["key"]
    square.local("operator").deposit(f"funds-{name}", name, 20 * USD)
    ann = Market(square.url, key, patience_s=60)
    _, provider = square.newcomer("provider")
    _, stranger = square.newcomer("customer")
    machines = [FakeProvider(provider, make_offer(square.name("offer"), region, USD // 2)) for _ in range(2)]
    monkeypatch.setenv("TORG_URL", square.url)
    monkeypatch.setenv("TORG_KEY", key)
    try:
        ann.submit_job(job, make_spec(region, options=OPTIONS))
        run_of_job = TrainedRun(square.local("plane"), job, made("byte_lm", OPTIONS, 1, tmp_path))
        workers = run_of_job.workers(2)
        assert refusal(lambda: ann.result(job, round=1)).code == "no_checkpoint"
        for kind in ("base", "delta", "delta"):
            run_of_job.report(workers)
            run_of_job.durable(kind)
        assert refusal(lambda: ann.result(job)).code == "no_result"
        _check_reports(ann, stranger, job)
        told = [{"round": 2, "loss": 1.5, "metrics": {"accuracy": 0.5, "f1": 0.25}}]
        square.local("plane").report_readings(job, run_pid=1, evaluated=told)

        for number in (1, 2, 3):
            folder = tmp_path / str(number)
            assert result(job, folder, "--round", str(number)) == 0, capsys.readouterr().err
            assert np.array_equal(flat_of(loaded(folder)), run_of_job.parameters[number])
            assert sorted(path.name for path in folder.iterdir()) == [
                "config.json",
                "manifest.json",
                "model.safetensors",
            ]
        figures = {"accuracy": 0.5, "f1": 0.25}
        for number, held_out in ((1, (None, None, {})), (2, (2, 1.5, figures)), (3, (2, 1.5, figures))):
            config = json.loads((tmp_path / str(number) / "config.json").read_text())
            assert (config["round"], config["step"]) == (number, 30 * number)
            said = (config["held_out_round"], config["held_out_loss"], config["held_out_metrics"])
            assert said == held_out, "the last evaluation, never a later one"
        capsys.readouterr()
        assert result(job, tmp_path / "9", "--round", "9") == 3
        assert "one of 1, 2, 3" in capsys.readouterr().err

        blob = run_of_job.manifests[-1].deltas[-1].blob
        path = square.home.blobs / blob[:2] / blob
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert result(job, tmp_path / "3 again", "--round", "3") == 1
        assert blob[:12] in capsys.readouterr().err
        assert result(job, tmp_path / "2 again", "--round", "2") == 0, "the chain before it is whole"
    finally:
        ann.cancel_job(job)
        ann.close()
        for machine in machines:
            machine.close()


def _check_reports(ann: Market, stranger: Market, job: str) -> None:
    kept = ann.checkpoints(job)
    assert kept["rounds"] == [1, 2, 3]
    assert [(one["round"], one["kind"], one["base_round"]) for one in kept["items"]] == [
        (1, "base", 1), (2, "delta", 1), (3, "delta", 1)
    ]  # fmt: skip
    assert refusal(lambda: stranger.checkpoints(job)).status == 404
