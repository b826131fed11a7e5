"""A working folder in parts: what the market has is not sent again, an upload that was cut goes on, what is missing is refused."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cli import jobfiles
from cli.jobfiles import Prepared, prepare_fields
from market.client import MarketUnreachable, Refused
from storage.parts import Parts
from tests.api.square import Square, refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(1)
    made = tmp_path / "project"
    made.mkdir()
    for number in range(200):
        (made / f"{number:03}.py").write_bytes(draw.randbytes(4_000))
    return made


def prepared(folder: Path) -> Prepared:
    fields: dict[str, Any] = {
        "name": "a", "command": ["true"], "workdir": str(folder), "workers": {"gpu": ["cpu"]},
        "limits": {"max_usd_per_gpu_hour": 1, "budget_usd": 1},
    }  # fmt: skip
    return prepare_fields(fields)


def test_only_the_part_that_changed_travels(square: Square, folder: Path) -> None:
    market, told = square.local("customer"), list[str]()
    with prepared(folder) as first:
        whole = first.upload(market)
        workdir = first.spec["command"]["workdir"]
        assert workdir["parts"] > 5
        assert Parts.decode(market.read_blob(workdir["digest"])).total_bytes == workdir["bytes"] <= whole
        assert first.upload(market) == 0
    (folder / "100.py").write_text("print('changed')\n")
    heard: list[tuple[int, int]] = []
    with prepared(folder) as second:
        sent = second.upload(market, told.append, lambda done, total: heard.append((done, total)))
    assert 0 < sent < whole / 5
    assert heard[-1] == (sent, sent)
    assert told[0].startswith(f"uploading {sent:,} bytes of ")


def test_an_upload_that_was_cut_goes_on_with_what_is_missing(
    square: Square, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = square.local("customer")
    (folder / "own.py").write_text("of this test")
    random.Random(2).shuffle(names := sorted(folder.iterdir()))
    for path in names[:50]:
        path.write_bytes(path.read_bytes()[::-1])
    real, left = market.upload_files, iter(range(1))

    def cut(files: Mapping[str, Path]) -> None:
        if next(left, None) is None:
            raise ConnectionError("cut off")
        real(files)

    monkeypatch.setattr(jobfiles, "TOGETHER_FILES", 3)
    with prepared(folder) as job:
        monkeypatch.setattr(market, "upload_files", cut)
        with pytest.raises(ConnectionError):
            job.upload(market)
        refused = refusal(lambda: market.submit_job("job-cut", job.spec))
        assert (refused.code, refused.field) == ("blob_missing", "command.workdir.digest")
        monkeypatch.setattr(market, "upload_files", real)
        before = len(market.missing_blobs(list(job._kept)))
        assert before == len(job._kept) - 3
        job.upload(market)
        assert market.missing_blobs(list(job._kept)) == []


def test_a_request_that_is_cut_is_sent_again_by_part_and_an_older_market_gets_each_alone(
    square: Square, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, draw = square.local("customer"), random.Random(3)
    blobs, real, sent = market.blobs, market.blobs.upload_all, list[int]()
    files = {}
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(draw.randbytes(1000))
        files[hashlib.sha256(path.read_bytes()).hexdigest()] = path

    def cut(given: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        sent.append(len(given))
        if len(sent) == 1:
            real(given[:1])
            raise MarketUnreachable(market.url, "cut in the middle")
        return real(given)

    first, second, last = ({digest: files[digest] for digest in list(files)[at : at + 2]} for at in (0, 2, 4))
    monkeypatch.setattr(blobs, "upload_all", cut)
    market.upload_files(first)
    assert (sent, market.missing_blobs(list(first))) == ([2, 1], [])

    def older(given: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        raise Refused("http_error", "the market answered 405", status=405)

    monkeypatch.setattr(blobs, "upload_all", older)
    market.upload_files(second)
    assert market.missing_blobs(list(second)) == []
    monkeypatch.setattr(blobs, "upload_all", real)
    next(iter(last.values())).write_bytes(b"changed")
    with pytest.raises(ValueError, match="has changed"):
        market.upload_files(last)


def test_parts_that_are_not_what_the_spec_says_are_refused(square: Square, folder: Path) -> None:
    market = square.local("customer")
    with prepared(folder) as job:
        job.upload(market)
        spec = job.spec
    workdir = spec["command"]["workdir"]

    def wrong(**changes: Any) -> Any:
        return refusal(
            lambda: market.submit_job(
                "job-wrong", {**spec, "command": {**spec["command"], "workdir": workdir | changes}}
            )
        )

    assert wrong(bytes=workdir["bytes"] + 1).code == "invalid_field"
    assert wrong(parts=0).field == "command.workdir.parts"
    assert wrong(digest=market.upload(b"no manifest")).code == "manifest_wrong"
    lacking = Parts((("ab" * 32, 7),))
    missing = wrong(digest=market.upload(lacking.encode()), bytes=7)
    assert missing.code == "blob_missing"
    assert "1 of its 1 parts" in missing.message
