"""`torg cp`: files and folders into a command's sandbox and out of it, through a real market."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.command_scene import CommandScene
from tests.api.square import Square, until


@pytest.fixture(scope="module")
def scene(square: Square, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandScene]:
    with CommandScene(square, tmp_path_factory.mktemp("machine")) as made:
        yield made


def test_a_file_goes_in_and_comes_out(scene: CommandScene, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "a b\n.bin").write_bytes(data)
    (tmp_path / "a b\n.bin").chmod(0o755)
    code, out, told = scene.torg("cp", str(tmp_path / "a b\n.bin"), f"{scene.job}:in.bin", "--json")
    assert (code, told) == (0, b"")
    assert json.loads(out) == {"path": f"{scene.job}:in.bin", "files": 1, "bytes": len(data), "left_out": 0}
    assert (scene.work / "in.bin").read_bytes() == data
    code, out, told = scene.torg("cp", f"{scene.job}:in.bin", str(tmp_path))
    assert (code, told) == (0, b"")
    assert (tmp_path / "in.bin").read_bytes() == data
    assert os.access(tmp_path / "in.bin", os.X_OK)


def test_a_folder_goes_in_and_comes_out_as_it_was(scene: CommandScene, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "deep" / "odd\nname: ü").write_text("x")
    (folder / "inner").symlink_to("deep/odd\nname: ü")
    (folder / "outer").symlink_to("/etc/passwd")
    code, out, told = scene.torg("cp", str(folder), f"{scene.job}:.", "--json")
    assert (code, told, json.loads(out)["left_out"]) == (0, b"", 1)
    code, _, told = scene.torg("cp", f"{scene.job}:folder", str(tmp_path / "back"))
    assert (code, told) == (0, b"")
    back = tmp_path / "back"
    assert (back / "inner").read_text() == "x"
    assert sorted(one.relative_to(back).as_posix() for one in back.rglob("*")) == ["deep", "deep/empty", "deep/odd\nname: ü", "inner"]


def test_what_cannot_be_is_told_and_leaves_nothing(scene: CommandScene, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("new")
    (scene.work / "there").mkdir(exist_ok=True)
    (scene.work / "there" / "sub").mkdir(exist_ok=True)
    (tmp_path / "sub").mkdir(exist_ok=True)
    for words, code, why in (
        ((f"{scene.job}:nowhere", str(tmp_path)), 1, b"nowhere"),
        ((str(tmp_path / "one"), f"{scene.job}:no/such/folder"), 1, b"no folder"),
        ((str(tmp_path / "one"), f"{scene.job}:absent/"), 1, b"no folder"),
        ((str(tmp_path / "sub"), f"{scene.job}:there"), 1, b"there already"),
        ((f"{scene.job}:there", str(tmp_path / "one" / "x")), 1, b"no folder"),
        ((str(tmp_path / "absent"), f"{scene.job}:x"), 2, b"does not exist"),
        ((str(tmp_path / "one"), str(tmp_path / "two")), 2, b"JOB:PATH"),
    ):
        ended, out, told = scene.torg("cp", *words)
        assert (ended, out, why in told) == (code, b"", True), (words, told)
    assert not list(tmp_path.glob(".torg-copy-*"))
    assert not list(scene.work.rglob(".torg-copy-*"))


def test_a_copy_that_is_cut_off_leaves_no_file_under_its_name(scene: CommandScene, tmp_path: Path) -> None:
    pipe = tmp_path / "slow"
    pipe.write_bytes(bytes(200 << 20))
    process = scene.start("cp", str(pipe), f"{scene.job}:big.bin")
    until(lambda: list(scene.work.glob(".torg-copy-*")), "it has begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not list(scene.work.glob(".torg-copy-*")), "what came of it is gone")
    assert not (scene.work / "big.bin").exists()


def test_a_copy_out_of_a_machine_that_is_lost_leaves_nothing_here(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path / "machine") as scene:
        (scene.work / "big.bin").write_bytes(bytes(400 << 20))
        process = scene.start("cp", f"{scene.job}:big.bin", str(tmp_path))
        until(lambda: list(tmp_path.glob(".torg-copy-*")), "it has begun")
        scene.host.lease_ended(scene.worker["id"], epoch=scene.worker["epoch"], reason="worker_killed", detail="")
        _, told = process.communicate(timeout=60)
        assert (process.returncode, b"the session is lost: the machine" in told) == (255, True), told
        assert not list(tmp_path.glob(".torg-copy-*"))
        assert not (tmp_path / "big.bin").exists()
