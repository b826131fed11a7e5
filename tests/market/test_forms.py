"""Job files: what people write, what they get back, and what they are told when it is wrong."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from market.checking import CHECKPOINT_DEFAULTS, EVALUATE_DEFAULTS, TRAIN_DEFAULTS, check_spec
from market.form_errors import FormError
from market.forms import JobFile, OfferForm, digest_only, make_form, parse_job, read_job, resolve
from market.outcomes import Settings
from trainers.inner_options import InnerOptions
from trainers.options import SAID_ONLY_WHERE_USED, STRATEGIES

FILE = """
name: tiny-gpt
workload: byte_lm
options: {size: 1M, context: 128}
data: corpus
strategy: {name: diloco, inner_steps: 30, outer_lr: 0.7, codec: int8}
steps: 601
workers: {min: 2, max: 4, gpus: 1, gpu: [cpu], vram_gib: 0, region: [], reliability: 0.0, isolation: sandbox}
limits: {max_usd_per_gpu_hour: 0.90, budget_usd: 5.00, deadline_hours: 2}
checkpoint: {every_rounds: 1, keep: 3}
seed: 1
tags: {team: demo, sprint: 4}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.py").write_text("class Mine:\n    pass\n")
    (tmp_path / "broken.py").write_text("class Mine(:\n")
    return tmp_path


def spec_of(text: str, folder: Path) -> dict[str, Any]:
    return resolve(parse_job(text), digest_only, folder=folder)


@pytest.mark.parametrize("place", ["huge.bin", "corpus/huge.bin"])
def test_data_over_the_limit_are_refused_before_they_are_packed(folder: Path, place: str) -> None:
    with (folder / place).open("wb") as file:
        file.truncate(2 * 2**30 + 1)
    data = place.partition("/")[0]
    with pytest.raises(FormError, match="at most 2147483648") as refused:
        spec_of(FILE.replace("data: corpus", f"data: {data}"), folder)
    assert (refused.value.field, refused.value.value) == ("data", data)


def test_the_exchange_takes_data_up_to_the_limit(folder: Path) -> None:
    spec = spec_of(FILE, folder)
    assert check_spec({**spec, "data": {**spec["data"], "bytes": 2 * 2**30}}, Settings()) is None
    refusal = check_spec({**spec, "data": {**spec["data"], "bytes": 2 * 2**30 + 1}}, Settings())
    assert refusal is not None
    assert (refusal.code, refusal.field, refusal.status) == ("too_large", "data.bytes", 413)
    assert "2147483648" in refusal.message


def test_a_job_file_becomes_a_spec_that_the_exchange_takes(folder: Path) -> None:
    spec = spec_of(FILE, folder)
    assert check_spec(spec, Settings()) is None
    assert spec["rounds"] == 21
    assert spec["limits"] == {
        "max_price_nanos_per_gpu_hour": 900_000_000,
        "budget_nanos": 5_000_000_000,
        "deadline_ms": 7_200_000,
    }
    assert spec["data"]["label"] == "corpus"
    assert spec["tags"] == {"team": "demo", "sprint": "4"}
    assert spec_of(FILE, folder) == spec


def test_the_shortest_job_file(folder: Path) -> None:
    text = "{name: a, workload: './model.py:Mine', steps: 5, limits: {max_usd_per_gpu_hour: 1, budget_usd: 1}}"
    spec = spec_of(text, folder)
    assert check_spec(spec, Settings()) is None
    assert spec["workload"]["filename"] == "model.py"
    assert spec["workload"]["digest"] == digest_only(folder / "model.py")
    assert (spec["data"], spec["workers"]["max"], spec["workers"]["gpu"]) == ({"kind": "none"}, 1, [])


def test_tokens_become_steps_of_the_smallest_gang(folder: Path) -> None:
    spec = spec_of(FILE.replace("steps: 601", "tokens: 1000000"), folder)
    assert spec["steps"] == -(-1_000_000 // (128 * 6 * 2))


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("seed: 1", "sed: 1", "sed", "did you mean seed?"),
        ("inner_steps", "iner_steps", "strategy.iner_steps", "did you mean inner_steps?"),
        ("limits:", "limit:", "limit", "did you mean limits?"),
        ("vram_gib: 0", "vram_gib: 24GB", "workers.vram_gib", "the unit is GiB"),
        ("deadline_hours: 2", "deadline_hours: 2h", "limits.deadline_hours", "the unit is hours"),
        ("0.90", "0", "limits.max_usd_per_gpu_hour", "above 0 to 1000 dollars"),
        ("0.90", "-1", "limits.max_usd_per_gpu_hour", "cannot be negative"),
        ("0.90", ".nan", "limits.max_usd_per_gpu_hour", "nan is not an amount"),
        ("0.90", ".inf", "limits.max_usd_per_gpu_hour", "inf is not an amount"),
        ("0.90", "1000000", "limits.max_usd_per_gpu_hour", "out of range"),
        ("5.00", "5 EUR", "limits.budget_usd", "not an amount of dollars"),
        ("5.00", "true", "limits.budget_usd", "not an amount of dollars"),
        ("budget_usd: 5.00, ", "", "limits.budget_usd", "is missing"),
        ("steps: 601", "steps: 0", "steps", "greater than or equal to 1"),
        ("steps: 601", "steps: 1.5", "steps", "valid integer"),
        ("steps: 601", "", "job file", "says neither steps nor tokens"),
        ("min: 2", "min: 5", "workers", "max must not be below min"),
        ("[cpu]", "[RTX409]", "workers.gpu.0", "RTX4090"),
        ("codec: int8", "codec: int9", "strategy.codec", "did you mean int8?"),
        ("isolation: sandbox", "isolation: vm", "workers.isolation", "allowed: process, sandbox"),
        ("name: diloco", "name: dilocco", "strategy.name", "did you mean diloco?"),
        ("name: diloco", "name: noloco", "strategy.outer_lr", "noloco does not have"),
        ("outer_lr: 0.7", "outer_lr: .inf", "strategy.outer_lr", "above 0 to 100"),
        ("outer_lr: 0.7", "outer_lr: fast", "strategy.outer_lr", "is no number"),
        ("inner_steps: 30", "inner_steps: 0", "strategy.inner_steps", "allowed: 1 to"),
        ("codec: int8", "codec: 'top_k:9/4+int2'", "strategy.codec", "keeps more than a chunk has"),
        ("codec: int8", "codec: 'top_k:64/4096'", "strategy.codec", "add +fp16"),
        ("codec: int8", "codec: int8, topology: ring", "strategy.topology", "known: auto, butterfly, gather, star"),
        ("{name: diloco, inner_steps: 30, outer_lr: 0.7, codec: int8}", "diloco", "strategy", "not a mapping"),
        ("seed: 1", "train: {precision: fp8}", "train.precision", "allowed: fp32, bf16, fp16"),
        ("seed: 1", "train: {acumulate: 2}", "train.acumulate", "did you mean accumulate?"),
        ("seed: 1", "train: {clip: -1}", "train.clip", "a number from 0 to"),
        ("seed: 1", "train: {compile: 1}", "train.compile", "true or false"),
        ("seed: 1", "train: {processes: 2}", "train.processes", "at most workers.gpus, which is 1"),
        ("seed: 1", "evaluate: {every_rounds: 0}", "evaluate.every_rounds", "from 1 to 10000"),
        ("seed: 1", "evaluate: {every_seconds: 0.5}", "evaluate.every_seconds", "from 1 to 2592000"),
        ("seed: 1", "evaluate: {every_seconds: 30s}", "evaluate.every_seconds", "the unit is seconds"),
        ("seed: 1", "evaluate: {every_second: 9}", "evaluate.every_second", "did you mean every_seconds?"),
        ("keep: 3", "base_every_rounds: 0", "checkpoint.base_every_rounds", "from 1 to 10000"),
        ("size: 1M", "size: huge", "options.size", "10k to 10G"),
        ("size: 1M", "sise: 1M", "options.sise", "did you mean 'size'?"),
        ("workload: byte_lm", "workload: bytelm", "workload", "did you mean byte_lm?"),
        ("workload: byte_lm", "workload: ./model.py:Yours", "workload", "did you mean Mine?"),
        ("workload: byte_lm", "workload: ./broken.py:Mine", "workload", "is not Python"),
        ("workload: byte_lm", "workload: ./nope.py:Mine", "workload", "cannot be read"),
        ("workload: byte_lm", "workload: ./model.py", "workload", "write ./file.py:ClassName"),
        ("data: corpus", "data: nowhere", "data", "does not exist"),
        ("data: corpus", "data: empty", "data", "is empty"),
        ("data: corpus", "data: 'share:a b'", "data", "write share:NAME"),
        ("name: tiny-gpt", "name: tiny gpt", "name", "pattern"),
        ("name: tiny-gpt", "name: [", "job file", "is no YAML"),
        ("team: demo", "té: demo", "tags.té", "pattern"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, old: str, new: str, field: str, words: str) -> None:
    assert old in FILE
    with pytest.raises(FormError) as caught:
        spec_of(FILE.replace(old, new, 1), folder)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_is_a_job_with_all_its_defaults(folder: Path, name: str) -> None:
    text = FILE.replace(
        "{name: diloco, inner_steps: 30, outer_lr: 0.7, codec: int8}", f"{{name: {name}, inner_steps: 40}}"
    )
    spec = spec_of(text, folder)
    assert check_spec(spec, Settings()) is None
    assert set(spec["strategy"]) == {"name", *STRATEGIES[name]} - set(SAID_ONLY_WHERE_USED)
    assert spec["rounds"] == -(-601 // (10 if name == "streaming_diloco" else 40))


def test_sections_that_are_not_written_have_the_defaults_of_those_who_read_them(folder: Path) -> None:
    spec = spec_of(FILE.replace("checkpoint: {every_rounds: 1, keep: 3}\n", ""), folder)
    assert spec["train"] == dict(TRAIN_DEFAULTS) == asdict(InnerOptions())
    assert (spec["checkpoint"], spec["evaluate"]) == (dict(CHECKPOINT_DEFAULTS), dict(EVALUATE_DEFAULTS))
    assert "inner_state" not in spec["checkpoint"], "the strategy in force decides"
    assert spec["options"] == {
        "size": "1M",
        "context": 128,
        "batch": 6,
        "lr": None,
        "reading": "random",
        "optimizer": "adamw",
    }


RAW = [
    # change of a good spec                               the refusal's field
    ({"strategy": {"name": "nope"}},                      "strategy.name"),
    ({"strategy": []},                                    "strategy"),
    ({"strategy": {"name": "ddp", "codec": "zip"}},       "strategy.codec"),
    ({"train": {"precision": "fp8"}},                     "train.precision"),
    ({"train": {"sharding": 1}},                          "train.sharding"),
    ({"train": {"processes": 2}},                         "train.processes"),
    ({"train": {"accumulate": 0}},                        "train.accumulate"),
    ({"train": {"accumulate": True}},                     "train.accumulate"),
    ({"train": {"compile": "yes"}},                       "train.compile"),
    ({"train": {"clip": float("1e7")}},                   "train.clip"),
    ({"train": {"nope": 1}},                              "train.nope"),
    ({"train": None},                                     "train."),
    ({"evaluate": {"every_rounds": 0}},                   "evaluate.every_rounds"),
    ({"evaluate": {"every_ms": 999}},                     "evaluate.every_ms"),
    ({"evaluate": {"every_rounds": None}},                "evaluate.every_rounds"),
    ({"evaluate": {"every_seconds": 60}},                 "evaluate.every_seconds"),
    ({"checkpoint": {"every_rounds": 1}},                 "checkpoint.keep"),
    ({"checkpoint": {"every_rounds": 1, "keep": 1, "base_every_rounds": 0}}, "checkpoint.base_every_rounds"),
    ({"checkpoint": {"every_rounds": 1, "keep": 1, "inner_state": 1}}, "checkpoint.inner_state"),
    ({"workload": {"kind": "builtin", "name": "nope"}},   "workload.name"),
    ({"options": {"batch": 0}},                           "options.batch"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), RAW, ids=[str(row[0]) for row in RAW])
def test_the_exchange_checks_the_same_of_whoever_needs_no_form(
    folder: Path, change: dict[str, Any], field: str
) -> None:
    refusal = check_spec({**spec_of(FILE, folder), **change}, Settings())
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("invalid", field)


def test_a_spec_of_before_these_options_is_taken(folder: Path) -> None:
    spec = {name: value for name, value in spec_of(FILE, folder).items() if name not in ("train", "evaluate")}
    spec |= {"strategy": {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"}}
    assert check_spec(spec | {"checkpoint": {"every_rounds": 1, "keep": 3}}, Settings()) is None


def test_the_json_schema_shows_every_strategy_and_option() -> None:
    schema = JobFile.model_json_schema()["properties"]["strategy"]["oneOf"]
    shown = {one["properties"]["name"]["const"]: set(one["properties"]) for one in schema}
    assert shown == {name: {"name", *options} for name, options in STRATEGIES.items()}


def test_a_job_file_that_is_not_there_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(FormError, match=r"none.yaml' cannot be read: no such file or directory$"):
        read_job(tmp_path / "none.yaml")
    with pytest.raises(FormError, match="not a mapping"):
        parse_job("- a\n- b\n")


def test_an_offer_form() -> None:
    form = make_form(OfferForm, {"name": "p1", "gpu": "rtx 4090", "gpus": 2, "price_usd_per_gpu_hour": "0.45"})
    assert (form.gpu, form.price_usd_per_gpu_hour) == ("RTX4090", 450_000_000)
    with pytest.raises(FormError, match="floor"):
        make_form(OfferForm, {**form.model_dump(), "price_usd_per_gpu_hour": 1, "floor_usd_per_gpu_hour": 2})


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("{}", {"every_rounds": 1}),
        ("{every_rounds: 5}", {"every_rounds": 5}),
        ("{every_seconds: 90}", {"every_ms": 90_000}),
        ("{every_seconds: 1.5, every_rounds: 5}", {"every_rounds": 5, "every_ms": 1_500}),
        ("{every_seconds: 60, every_rounds: null}", {"every_ms": 60_000}),
    ],
)
def test_evaluations_are_by_rounds_by_the_clock_or_by_both(folder: Path, written: str, normalised: object) -> None:
    spec = spec_of(FILE.replace("seed: 1", f"seed: 1\nevaluate: {written}"), folder)
    assert spec["evaluate"] == normalised
    assert check_spec(spec, Settings()) is None
