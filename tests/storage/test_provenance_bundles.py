"""A model's provenance holds down to its data, whatever is altered is found, and each refusal has its name."""

import base64
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cli.provenance_views import view
from market.commands import ReportRound, RetuneJob, StartLease, Word
from market.dispute_commands import DecideDispute, OpenDispute
from storage.canonical import canonical_bytes, parse_json
from storage.checks import seal
from storage.dsse import check_envelope, envelope, pre_authentication
from storage.job_events import provenance_events
from storage.machines import sign_machine
from storage.meter_readings import new_meter_key
from storage.projection import Projection
from storage.provenance import new_signing_key, public_key_of, verify_bundle
from storage.provenance_bundles import PROVENANCE_FORMAT, make_provenance_bundle, provenance_proof
from storage.transparency import LogIndex
from storage.tree_heads import TreeHead
from storage.worker_statements import sign_statement, worker_statement
from tests.market.scene import Scene, digest
from tests.storage.books_examples import write

KEY, STRANGER, PROVIDER = new_signing_key(), new_signing_key(), new_signing_key()
CHECKS = (
    "format", "digest", "signature", "head", "history", "inclusion", "cosigned", "job", "committed", "chain", "segments", "outputs",
    "statements", "machines", "workers", "lineage", "transfers", "charges", "totals", "complete",
)  # fmt: skip
METER_PRIVATE, METER_PUBLIC = new_meter_key()
Json = dict[str, Any]


def played() -> Scene:
    return played_by(words)


def played_by(words: Callable[[ReportRound], tuple[Word, ...]]) -> Scene:
    """A job of four rounds and three checkpoints, one of them of two rounds, with a held-out loss; it ends."""
    scene = Scene()
    for number in (1, 2):
        scene.offer(f"offer-{number}", f"p{number}", 0.4 + 0.1 * number)
    scene.submit()
    scene.clear()
    for lease in scene.view()["workers"]:
        key = METER_PUBLIC if lease["slot"] == 0 else ""
        facts = {"gpu": "cpu", "torch": "2.9", "meter_key": key}
        machine = sign_machine(lease["id"], lease["epoch"], facts, PROVIDER)
        scene.do(StartLease(lease["id"], lease["epoch"], "w", 1, "node", lease["provider"], key, machine))
    for number in range(1, 5):
        scene.wait(1_000)
        made = scene.make_round(number, {0: number * 1_000, 1: number * 1_000})
        scene.do(replace(made, words=words(made)))
        if number != 2:
            scene.checkpoint(number)
            scene.evaluate("job-1", number, 5.0 - number, accuracy=0.25)
    scene.halt("done")
    return scene


def words(made: ReportRound) -> tuple[Word, ...]:
    """The worker of slot 0 has signed its work, its parameters in round 2 being its own; that of slot 1 has no key."""
    first = made.members[0]
    own = digest("own") if made.round == 2 else None
    statement = worker_statement(made.job, made.round, own or made.digest, asdict(first))
    return (Word(first.lease, first.epoch, sign_statement(statement, METER_PRIVATE), own),)


def bundle_of(scene: Scene, folder: Path, key: bytes | None = KEY) -> Json:
    write(folder / "journal", scene.records)
    log = LogIndex(folder / "journal", None, bytes(32))
    log.catch_up()
    size = len(log)
    with Projection.in_memory(folder / "journal") as books, books.cursor() as cursor:
        shown = [log.show(record, ordinals, size) for record, ordinals in provenance_events(cursor, "job-1")]
    head = TreeHead.signed("square", size, log.root(size), 1, KEY)
    return dict(parse_json(canonical_bytes(make_provenance_bundle(provenance_proof("square", "job-1", shown), head, key))))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return bundle_of(played(), tmp_path_factory.mktemp("market"))


@pytest.fixture
def bundle(sound: Json) -> Json:
    return copy.deepcopy(sound)


def refusal(bundle: object, **more: Any) -> str | None:
    """The code of the first check that does not hold."""
    return next((check.code for check in verify_bundle(bundle, **more).checks if not check.ok), None)


def again(bundle: Json, key: bytes | None = KEY) -> Json:
    """Sealed by somebody who has this key: the market's, where nothing else is said."""
    return seal(PROVENANCE_FORMAT, bundle["body"], key)


def said(bundle: Json, segment: int) -> Json:
    return dict(json.loads(base64.b64decode(bundle["body"]["statements"][segment - 1]["payload"])))


def shown(bundle: Json, kind: str) -> list[Json]:
    return [one for record in bundle["body"]["records"] for one in record["events"] if one["event"]["type"] == kind]


def test_an_honest_bundle_holds_and_says_where_the_model_comes_from(sound: Json) -> None:
    found = verify_bundle(sound, public_key=public_key_of(KEY))
    assert [(check.name, check.detail) for check in found.checks if not check.ok] == []
    assert [check.name for check in found.checks] == list(CHECKS)
    details = {check.name: check.detail for check in found.checks}
    assert "← 3 segments ← initial parameters of seed 1" in details["lineage"]
    assert details["machines"] == "2 leases' machines, signed by their providers"
    assert details["workers"] == (
        "4 of 8 members' rounds are signed by the workers that made them; 4 have no signature of their worker"
    )
    assert details["complete"] == "the job is done and its escrow is empty: nothing was left out"
    assert details["statements"] == "3 statements, each made again from the events, signed by the market"


def test_a_statement_is_in_toto_with_slsa_provenance(sound: Json) -> None:
    statement = said(sound, 2)
    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1")
    assert [one["name"] for one in statement["subject"]] == ["job-1/checkpoint/3", "job-1/parameters/3"]
    definition, details = (statement["predicate"][name] for name in ("buildDefinition", "runDetails"))
    asked = definition["externalParameters"]
    assert (asked["order_seed"], asked["precision"], asked["strategy"]["codec"]) == (1, "fp32", "int8")
    assert definition["internalParameters"]["rounds"] == {"first": 2, "last": 3}
    parent = said(sound, 1)["subject"][0]["digest"]
    assert [one["name"] for one in definition["resolvedDependencies"]] == ["code", "parent"]
    assert definition["resolvedDependencies"][1]["digest"] == parent
    committed = definition["internalParameters"]["committed"]
    assert committed["spec"] < committed["first_lease_started"] < committed["first_round"]
    assert [row["round"] for row in details["torg_metrics"]] == [2, 3]
    assert details["torg_metrics"][1]["held_out_loss"] == 2.0
    assert "held_out_loss" not in details["torg_metrics"][0], "what was not measured is absent"
    assert {row["lease"] for row in details["torg_work"]} == set(details["torg_log"]["leases"])
    assert {row["machine"]["facts"]["torch"] for row in details["torg_work"]} == {"2.9"}
    assert [row["signed_rounds"] for row in details["torg_work"]] == [2, 0], "who did not sign is said"
    assert {row["machine"]["public_key"] for row in details["torg_work"]} == {public_key_of(PROVIDER)}
    ids = {one["event"]["id"] for one in shown(sound, "transfer")}
    assert all(charge["transfers"] and set(charge["transfers"]) <= ids for charge in details["torg_charges"])


def test_an_envelope_is_signed_as_dsse_says() -> None:
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    ), "the example of DSSE's protocol.md"
    assert envelope({}, None)["signatures"] == []


# Each altered by one thing, by somebody who has the market's key and seals it again: what finds it.
ALTERED: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "another seed": ("not_in_record", lambda b: shown(b, "job_submitted")[0]["event"]["spec"].update(seed=2)),
    "another member": ("not_in_record", lambda b: shown(b, "round_committed")[0]["event"]["members"][0].update(provider="p9")),
    "another checkpoint": ("not_in_record", lambda b: shown(b, "checkpoint_durable")[0]["event"].update(manifest="0" * 64)),
    "another digest of data in a statement": ("not_in_record", lambda b: shown(b, "provenance")[0]["event"]["statement"]["predicate"]["data"].update(digest="0" * 64)),
    "another time": ("not_in_log", lambda b: b["body"]["records"][0].update(at_ms=1)),
    "a record's empty proof": ("empty_proof", lambda b: b["body"]["records"][0].update(path=[])),
    "an event's empty proof": ("empty_proof", lambda b: shown(b, "transfer")[0].update(path=[])),
    "nothing shown": ("no_events", lambda b: b["body"].update(records=[])),
    "an event twice": ("out_of_order", lambda b: b["body"]["records"].append(b["body"]["records"][-1])),
    "another market's name": ("wrong_market", lambda b: b["body"].update(market="circle")),
    "a head that nobody signed": ("bad_head", lambda b: b["body"]["head"].update(size=b["body"]["head"]["size"] + 1)),
    "another job's name": ("another_job", lambda b: b["body"].update(job="job-2")),
    "the submission left out": ("incomplete", lambda b: left_out(b, "job_submitted")),
    "a round left out": ("incomplete", lambda b: left_out(b, "round_committed", round=2)),
    "a checkpoint left out": ("incomplete", lambda b: left_out(b, "checkpoint_durable", round=3)),
    "a segment left out": ("chain", lambda b: left_out(b, "provenance", segment=1)),
    "the last segment left out": ("incomplete", lambda b: left_out(b, "provenance", segment=3)),
    "a charge left out": ("statements", lambda b: left_out(b, "transfer", kind="charge")),
    "a statement left out": ("incomplete", lambda b: b["body"]["statements"].pop()),
    "a statement by a stranger": ("stranger", lambda b: b["body"]["statements"].__setitem__(0, envelope(said(b, 1), STRANGER))),
    "a statement without signature": ("not_signed", lambda b: b["body"]["statements"].__setitem__(0, envelope(said(b, 1), None))),
    "a better loss in a statement": ("statements", lambda b: better(b)),
    "no envelope": ("bad_envelope", lambda b: b["body"]["statements"].__setitem__(0, {})),
    "another sum": ("totals", lambda b: b["body"]["totals"].update(fee_nanos=0)),
    "a field more": ("bad_form", lambda b: b["body"].update(more=1)),
}


def left_out(bundle: Json, what: str, **fields: Any) -> None:
    gone = 0
    for record in bundle["body"]["records"]:
        kept = [
            one for one in record["events"]
            if one["event"]["type"] != what or any(one["event"][name] != value for name, value in fields.items())
        ]  # fmt: skip
        gone += len(record["events"]) - len(kept)
        record["events"] = kept
    assert gone


def better(bundle: Json) -> None:
    statement = said(bundle, 1)
    statement["predicate"]["runDetails"]["torg_metrics"][0]["held_out_loss"] = 0.1
    bundle["body"]["statements"][0] = envelope(statement, KEY)


def test_a_workers_word_that_its_key_did_not_sign_is_found_and_an_envelope_is_made_of_each(
    sound: Json, tmp_path: Path
) -> None:
    lines = view("--dsse", tmp_path / "x", sound).splitlines()
    own = [one for one in map(json.loads, lines) if one["signatures"][0]["keyid"] == METER_PUBLIC]
    assert (len(lines), len(own)) == (3 + 4, 4)
    for one in own:
        check_envelope(one, METER_PUBLIC)
    predicate = parse_json(base64.b64decode(own[1]["payload"]))["predicate"]
    assert (predicate["round"], predicate["steps"]) == (2, 30)

    scene = played_by(lambda made: tuple(replace(one, signature="0" * 128) for one in words(made)))
    assert refusal(bundle_of(scene, tmp_path)) == "stranger"


@pytest.mark.parametrize("name", ALTERED)
def test_one_thing_altered_is_refused_by_name(bundle: Json, name: str) -> None:
    code, alter = ALTERED[name]
    alter(bundle)
    assert refusal(bundle, public_key=public_key_of(KEY)) in ("digest", "bad_form")
    assert refusal(again(bundle), public_key=public_key_of(KEY)) == code


def test_a_stranger_another_market_and_an_older_head_are_refused_by_name(bundle: Json) -> None:
    key = public_key_of(KEY)
    assert refusal(again(bundle, STRANGER), public_key=key) == "stranger"
    assert refusal(again(bundle, STRANGER)) == "stranger", "the head in it is still the market's"
    assert refusal(again(bundle, None), public_key=key) == "not_signed"
    assert refusal(bundle, public_key=public_key_of(STRANGER)) == "stranger"
    size, root = bundle["body"]["head"]["size"], bundle["body"]["head"]["root"]
    assert refusal(bundle, seen={str(size + 3): "0" * 64}) == "older_head"
    assert refusal(bundle, seen={str(size): "0" * 64}) == "another_history"
    assert refusal(bundle, seen={str(size): root, str(size + 3): "0" * 64}) is None


def test_what_was_decided_after_the_work_began_is_found(tmp_path: Path) -> None:
    """A market that journals the hyper-parameters late is found by the places in the log, whatever it signs."""
    scene = played()
    late = next(at for at, record in enumerate(scene.records) if b'"job_submitted"' in record)
    first = next(at for at, record in enumerate(scene.records) if b'"lease_started"' in record)
    scene.records.insert(first, scene.records.pop(late))
    assert refusal(bundle_of(scene, tmp_path)) is not None
    found = verify_bundle(bundle_of(scene, tmp_path / "again"))
    assert next(check.name for check in found.checks if not check.ok) == "committed"


def test_a_strategy_that_was_changed_is_in_the_log_before_its_rounds(tmp_path: Path) -> None:
    scene = Scene()
    scene.running()
    for number in (1, 2, 3):
        scene.wait(1_000)
        if number == 2:
            scene.do(RetuneJob("t1", "job-1", None, {"outer_lr": 0.5}, "ann"))
        scene.round(number, {0: number * 1_000, 1: number * 1_000})
        scene.checkpoint(number)
    found = bundle_of(scene, tmp_path)
    assert refusal(found) is None
    assert "this is its provenance so far" in verify_bundle(found).checks[-1].detail


@pytest.mark.parametrize("decision", [None, "upheld", "rejected"])
def test_a_disputed_charge_leaves_the_proof_whole(tmp_path: Path, decision: str | None) -> None:
    scene = played()
    lease = scene.of_type("lease_granted")[0]["lease"]
    scene.do(OpenDispute("x", "job-1", lease, None, "it did nothing", "my log", "ann"))
    if decision is not None:
        scene.do(DecideDispute(scene.of_type("dispute_opened")[0]["dispute"], decision, None, "the log says so", "op"))
    assert refusal(bundle_of(scene, tmp_path)) is None


def test_without_cryptography_all_but_signatures_is_checked(bundle: Json, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps(bundle), encoding="utf-8")
    program = (
        "import json, sys\n"
        "sys.modules['cryptography'] = None\n"
        "from storage.provenance_bundles import verify_provenance\n"
        "found = verify_provenance(json.load(open(sys.argv[1])))\n"
        "asked = verify_provenance(json.load(open(sys.argv[1])), public_key='0' * 64)\n"
        "extra = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'storage', '__main__', 'cryptography'}\n"
        "print(json.dumps([found.ok, [check.detail for check in found.checks if 'cryptography' in check.detail], asked.ok, sorted(extra)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, str(tmp_path / "bundle.json")], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ok, skipped, asked, extra = json.loads(done.stdout)
    assert (ok, len(skipped), asked, extra) == (True, 5, False, [])


def test_nothing_that_is_no_bundle_raises(bundle: Json) -> None:
    for body in ({}, [], None, {**bundle["body"], "records": [{}]}, {**bundle["body"], "statements": 7, "head": {}}):
        assert refusal({"format": PROVENANCE_FORMAT, "body": body, "digest": "", "signature": None})
    assert digest("x")
