"""A market whose blobs are in a bucket: code, a working folder in parts, checkpoints, deltas and results, over a restart."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cli.main import run
from market.homes import Home
from market.supervisor import stop
from storage.object_stores import open_store
from tests.api.square import USD, FakeProvider, Square, make_offer, make_spec
from tests.api.test_parts import prepared
from tests.api.test_results import OPTIONS, TrainedRun, flat_of, loaded, made, result
from tests.storage.s3_server import S3Server, s3_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in (("AWS_ACCESS_KEY_ID", "an-id"), ("AWS_SECRET_ACCESS_KEY", "a-secret-key"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    with s3_server() as found:
        yield found


def test_a_market_keeps_its_blobs_in_a_bucket(
    server: S3Server, spare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.make_bucket('market')}/blobs"
    place = ["--blobs", url, "--blobs-endpoint", server.endpoint]
    home = Home(spare)
    assert run(["up", "--ray", "none", "--home", str(spare), *place]) == 0, capsys.readouterr().err
    assert home.blobs_file.stat().st_mode & 0o777 == 0o600
    assert "a-secret-key" not in home.blobs_file.read_text(), "keys of the environment stay there"
    square = Square(home.read_market()["url"], home)
    monkeypatch.setenv("TORG_URL", square.url)
    monkeypatch.setenv("TORG_KEY", home.read_keys()["customer"])
    customer = square.local("customer")
    square.local("operator").deposit("funds", "customer", 20 * USD)
    machines = [FakeProvider(square.local("provider"), make_offer("offer", "here", USD // 2))]
    machines.append(FakeProvider(square.newcomer("provider")[1], make_offer("offer-2", "here", USD // 2)))
    try:
        customer.submit_job("job", make_spec("here", options=OPTIONS))
        trained = TrainedRun(square.local("plane"), "job", made("byte_lm", OPTIONS, 1, tmp_path))
        workers = trained.workers(2)
        for kind in ("base", "delta"):
            trained.report(workers)
            trained.durable(kind)
        square.back("exchange", square.kill("exchange"))
        trained.report(workers)
        trained.durable("delta")
        for number in (1, 2, 3):
            folder = tmp_path / str(number)
            assert result("job", folder, "--round", str(number)) == 0, capsys.readouterr().err
            assert np.array_equal(flat_of(loaded(folder)), trained.parameters[number])
    finally:
        for machine in machines:
            machine.close()
        square.local("plane").report_halted("job", state="done", reason="done", round=3, manifest=trained.manifest)
    _travels_in_parts(square, tmp_path)
    for name in ("TORG_URL", "TORG_KEY"):
        monkeypatch.delenv(name)
    objects = open_store(url, server.access)
    names = {one.name.partition("/")[2] for one in objects.list()}
    assert {trained.manifest, *trained.manifests[-1].blobs} <= names
    assert not [path for path in home.blobs.iterdir() if len(path.name) == 2], "none of them lies in the home"
    _check_from_the_command_line(spare, url, server, trained.manifests[-1].state, tmp_path, capsys)
    square.close()
    assert stop(spare)
    assert not [path for path in spare.rglob("*.log") if "a-secret-key" in path.read_text(errors="replace")]


def _travels_in_parts(square: Square, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number}.py").write_text(f"print({number})\n" * 1500)
    with prepared(folder) as job:
        job.upload(square.local("customer"))
        assert job.upload(square.local("customer")) == 0, "all of it is there"


def _check_from_the_command_line(
    home: Path, url: str, server: S3Server, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--home", str(home)]
    capsys.readouterr()
    assert run(["blobs", "verify", "--json", *here]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    objects = open_store(url, server.access)
    name = f"{state[:2]}/{state}"
    content = bytearray(objects.get(name))
    content[-1] ^= 1
    objects.replace(name, bytes(content))
    assert run(["blobs", "verify", "--json", *here]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"] == [f"{url}/{name}"]
    again = ["up", "--ray", "none", "--blobs-endpoint", server.endpoint, "--home"]
    assert run([*again, str(tmp_path / "other"), "--blobs", url]) == 3
    assert "another market" in capsys.readouterr().err
    assert run([*again, str(home), "--blobs", "s3://elsewhere"]) == 3
    assert run([*again, str(tmp_path / "other"), "--blobs", "gs://bucket"]) == 2
    assert not (tmp_path / "other").exists()
