"""A bundle proves itself, and any byte of it that was changed is found."""

import contextlib
import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage.canonical import NotCanonical, digest_of
from storage.ledger import Transfer
from storage.provenance import (
    Charge,
    Segment,
    SegmentOutputs,
    Work,
    bundle_bytes,
    load_bundle,
    make_bundle,
    make_statement,
    public_key_of,
    statement_digest,
    verify_bundle,
)

KEY = bytes(range(32))


def example_bundle(signing_key: bytes | None = KEY) -> dict[str, Any]:
    """Two segments by two leases, charged with each; a last settlement outside; the rest given back."""
    job = "job-0123456789"
    spec = {"name": "tiny", "steps": 60, "strategy": {"name": "diloco", "outer_lr": 0.7}, "seed": 1}
    statements: list[dict[str, Any]] = []
    manifest, before = None, None
    for number in (1, 2):
        segment = Segment(
            job=job, segment=number, first_round=number * 2 - 1, last_round=number * 2, first_step=(number - 1) * 60,
            last_step=number * 60, parent_statement=before, parent_manifest=manifest, code=None, code_label="byte_lm",
            data="d" * 64, data_label="stdlib", order_seed=1, hyperparameters=spec["strategy"],
            work=(Work("lease-000001", 1, 0, "p1", 2, 60, 5000, 2000, 1900),
                  Work("lease-000002", 2, 1, "p2", 2, 60, 5000, 2000, 1900)),
            outputs=SegmentOutputs(str(number) * 64, "e" * 64, "f" * 64),
            charges=(Charge("lease-000001", 1, (number - 1) * 2000, number * 2000, 1000, 50),
                     Charge("lease-000002", 2, (number - 1) * 2000, number * 2000, 600, 30)),
        )  # fmt: skip
        statements.append(make_statement(segment))
        before, manifest = statement_digest(statements[-1]), segment.outputs.manifest
    transfers = [Transfer("h", "hold", "wallet:ann", f"escrow:{job}", 10_000, job)]
    for lease, amount, fee in (("lease-000001", 1000, 50), ("lease-000002", 600, 30)):
        for part in range(3 if lease == "lease-000001" else 2):
            id = f"{lease}-{part}"
            earned = Transfer(f"c-{id}", "charge", f"escrow:{job}", "earnings:p", amount - fee, job, lease)
            transfers += [earned, Transfer(f"f-{id}", "fee", f"escrow:{job}", "fee", fee, job, lease)]
    transfers.append(Transfer("r", "release", f"escrow:{job}", "wallet:ann", 10_000 - 4_200, job))
    return make_bundle(job, spec, statements, transfers, journal=(77, "9" * 64), signing_key=signing_key)


BUNDLE = example_bundle()
Path_ = tuple[str | int, ...]


def failed(bundle: object) -> list[str]:
    return [check.name for check in verify_bundle(bundle).checks if not check.ok]


def places(value: Any, at: Path_ = ()) -> list[Path_]:
    """Every place in a JSON value at which something could be changed."""
    found = [at] if at else []
    if isinstance(value, dict):
        return found + [place for key in value for place in places(value[key], (*at, key))]
    if isinstance(value, list):
        return found + [place for i, each in enumerate(value) for place in places(each, (*at, i))]
    return found


def changed(bundle: dict[str, Any], place: Path_, new: Any) -> dict[str, Any]:
    made = copy.deepcopy(bundle)
    target: Any = made
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = new
    return made


def resealed(bundle: dict[str, Any]) -> dict[str, Any]:
    """What a thief does who knows the format and has not the market's key."""
    made = copy.deepcopy(bundle)
    body = made["body"]
    body["spec_digest"] = digest_of(body["spec"])
    body["statement_digests"] = [statement_digest(statement) for statement in body["statements"]]
    made["digest"] = digest_of(body)
    return made


def test_an_honest_bundle_holds() -> None:
    found = verify_bundle(load_bundle(bundle_bytes(BUNDLE)), public_key=public_key_of(KEY))
    assert [(check.name, check.ok) for check in found.checks] == [
        (name, True)
        for name in ("format", "digest", "signature", "spec", "chain", "statements", "outputs", "work", "transfers",
                     "charges", "totals")
    ]  # fmt: skip
    assert found.ok
    details = {check.name: check.detail for check in found.checks}
    assert details["statements"] == "rounds 1 to 4, 120 steps"
    assert details["charges"].endswith("0.000001 dollars were settled outside segments")
    assert verify_bundle(make_bundle("job-x", {}, [], [])).ok


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(place=st.sampled_from(places(BUNDLE)), new=JSON)
@settings(deadline=None, max_examples=400)
def test_any_changed_value_is_found(place, new) -> None:
    mutant = changed(BUNDLE, place, new)
    assume(json.dumps(mutant, sort_keys=True) != json.dumps(BUNDLE, sort_keys=True))
    # taking the signature away as a whole makes an unsigned bundle, which only a demand for a key can find
    expected_key = public_key_of(KEY) if place == ("signature",) else None
    assert not verify_bundle(mutant, public_key=expected_key).ok


@given(place=st.sampled_from(places(BUNDLE["body"])), new=JSON)
@settings(deadline=None, max_examples=200)
def test_a_thief_who_makes_the_digests_anew_is_found_by_the_signature(place, new) -> None:
    mutant = changed(BUNDLE, ("body", *place), new)
    assume(json.dumps(mutant, sort_keys=True) != json.dumps(BUNDLE, sort_keys=True))
    with contextlib.suppress(KeyError, TypeError, AttributeError, NotCanonical):
        mutant = resealed(mutant)
    assume(json.dumps(mutant["body"], sort_keys=True) != json.dumps(BUNDLE["body"], sort_keys=True))
    assert not verify_bundle(mutant).ok


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_changed_byte_of_the_file_is_found(data) -> None:
    whole = bundle_bytes(BUNDLE)
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 2))] ^= data.draw(st.integers(1, 255))
    try:
        mutant = load_bundle(bytes(content))
    except NotCanonical:
        return
    assert not verify_bundle(mutant).ok


STATEMENT = ("body", "statements", 1, "predicate")


@pytest.mark.parametrize(
    ("place", "new", "check"),
    [
        (("body", "transfers", 1, "amount_nanos"), 1, "totals"),
        (("body", "transfers", 1, "credit"), "fee", "transfers"),
        (("body", "transfers", 0, "amount_nanos"), 3000, "transfers"),
        (("body", "totals", "fee_nanos"), 0, "totals"),
        ((*STATEMENT, "charges", 0, "amount_nanos"), 5000, "charges"),
        ((*STATEMENT, "charges", 0, "from_ms"), 1500, "charges"),
        ((*STATEMENT, "parents", "manifest"), "0" * 64, "outputs"),
        ((*STATEMENT, "outputs", "manifest"), "0" * 64, "outputs"),
        ((*STATEMENT, "rounds", "first"), 2, "statements"),
        ((*STATEMENT, "steps", "last"), 10, "statements"),
        ((*STATEMENT, "job"), "job-other", "statements"),
        ((*STATEMENT, "work", 0, "tokens"), -1, "work"),
        ((*STATEMENT, "parents", "statement"), "0" * 64, "chain"),
        (("body", "statements", 0, "predicate", "data", "order_seed"), 2, "chain"),
    ],
)
def test_what_does_not_add_up_is_found_without_any_signature(place, new, check) -> None:
    mutant = resealed(changed(example_bundle(None), place, new))
    assert check in failed(mutant)
    assert "digest" not in failed(mutant)


def test_a_signature_by_another_key_is_found() -> None:
    other = example_bundle(bytes(32))
    assert verify_bundle(other).ok
    assert failed_with_key(other) == ["signature"]
    assert failed_with_key(example_bundle(None)) == ["signature"]


def failed_with_key(bundle: object) -> list[str]:
    return [check.name for check in verify_bundle(bundle, public_key=public_key_of(KEY)).checks if not check.ok]


@pytest.mark.parametrize(
    "thing", [None, 1, "x", [], {}, {"format": "torg-bundle-1"}, {"format": "torg-bundle-1", "body": 1}]
)
def test_anything_at_all_can_be_checked(thing) -> None:
    assert not verify_bundle(thing).ok


def test_without_cryptography_the_signature_is_skipped_and_everything_else_checked(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(bundle_bytes(BUNDLE))
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from storage.provenance import load_bundle, verify_bundle\n"
        "bundle = load_bundle(open(sys.argv[1], 'rb').read())\n"
        "found = verify_bundle(bundle)\n"
        "print(found.ok, [c.detail for c in found.checks if c.name == 'signature'][0])\n"
        "print(verify_bundle(bundle, public_key=bundle['signature']['public_key']).ok)\n"
        "third = {m.split('.')[0] for m in sys.modules} & {'numpy', 'duckdb', 'pyarrow', 'safetensors', 'pydantic'}\n"
        "print(third)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "bundle.json")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == [
        "True skipped: the package `cryptography` is not installed here", "False", "set()",
    ]  # fmt: skip


def test_a_key_that_appears_twice_is_not_read() -> None:
    with pytest.raises(NotCanonical, match="twice"):
        load_bundle(b'{"a":1,"a":2}')
    with pytest.raises(NotCanonical):
        load_bundle(b'{"a":NaN}')


def test_segments_may_carry_no_charge() -> None:
    segment = Segment(
        job="j", segment=1, first_round=1, last_round=1, first_step=0, last_step=30, parent_statement=None,
        parent_manifest=None, code="a" * 64, code_label="m.py:M", data=None, data_label="none", order_seed=0,
        hyperparameters={}, work=(), outputs=SegmentOutputs("b" * 64, None, None), charges=(),
    )  # fmt: skip
    assert verify_bundle(make_bundle("j", {}, [make_statement(segment)], [])).ok
    assert not verify_bundle(make_bundle("k", {}, [make_statement(segment)], [])).ok
    later = make_statement(replace(segment, segment=2))
    assert not verify_bundle(make_bundle("j", {}, [later], [])).ok
