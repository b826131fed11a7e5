"""The market's log follows the journal, proves what it shows, and an invoice with its proof cannot be forged."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.billing import invoice
from storage.checks import seal
from storage.cosignatures import CosignedHead, cosign
from storage.invoice_bundles import INVOICE_FORMAT, invoice_proof, make_invoice_bundle, verify_invoice
from storage.job_events import billed_events
from storage.journal import Journal
from storage.merkle import EMPTY_ROOT, is_consistent, is_included, root_from_inclusion
from storage.projection import Projection
from storage.signing import is_signed_by, new_signing_key, public_key_of
from storage.tenants import Tenant
from storage.transparency import LogIndex, event_leaf, record_leaf
from storage.tree_heads import BadHead, TreeHead
from tests.storage.books_examples import example_story, write

SECRET = bytes(range(32))
KEY = new_signing_key()
OPERATOR = Tenant("root", "operator")
Json = dict[str, Any]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    write(tmp_path / "journal", example_story().records)
    return tmp_path / "journal"


def first_code(bundle: object, **more: Any) -> str | None:
    return next((check.code for check in verify_invoice(bundle, **more).checks if not check.ok), None)


def followed(journal: Path, path: Path | None = None) -> LogIndex:
    log = LogIndex(journal, path, SECRET)
    log.catch_up()
    return log


def bundle_of(journal: Path, job: str, key: bytes | None = KEY) -> Json:
    log = followed(journal)
    size = len(log)
    head = TreeHead.signed("m", size, log.root(size), 1, KEY)
    with Projection.in_memory(journal) as books, books.cursor() as cursor:
        said = invoice(cursor, OPERATOR, job)
        assert isinstance(said, dict)
        shown = [log.show(record, ordinals, size) for record, ordinals in billed_events(cursor, job)]
    bundle: Json = json.loads(json.dumps(make_invoice_bundle(invoice_proof(said, shown), head, key)))
    return bundle


def first_bad(bundle: object, **more: Any) -> str | None:
    found = verify_invoice(bundle, **more)
    return next((check.name for check in found.checks if not check.ok), None)


def test_every_event_of_every_record_is_proven(journal: Path) -> None:
    log = followed(journal)
    size, root = len(log), log.root(len(log))
    assert size == len(example_story().records)
    for number, payload in enumerate(example_story().records, start=1):
        events = json.loads(payload)["events"]
        record = log.show(number, range(len(events)), size)
        leaf = record_leaf(number, record.at_ms, record.events, record.events_root)
        assert is_included(leaf, number - 1, size, record.path, root)
        for one in record.shown:
            assert one.event == events[one.ordinal]
            inner = event_leaf(one.salt, one.event)
            assert root_from_inclusion(inner, one.ordinal, record.events, one.path) == record.events_root


def test_the_log_grows_with_the_journal_and_stays_consistent(tmp_path: Path) -> None:
    records = example_story().records
    write(tmp_path / "journal", records[:7])
    log = followed(tmp_path / "journal", tmp_path / "log")
    early = log.root(7)
    with Journal.open(tmp_path / "journal") as journal:
        journal.append(records[7:])
    assert log.catch_up() == len(records) - 7
    assert is_consistent(7, early, len(log), log.root(len(log)), log.consistency(7, len(log)))
    assert log.root(len(log)) == followed(tmp_path / "journal").root(len(records))


@settings(max_examples=30)
@given(st.data())
def test_whatever_happens_to_its_file_the_log_is_the_journals(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    write(folder / "journal", example_story().records)
    file = folder / "log.tree"
    first = followed(folder / "journal", file)
    wanted = first.root(len(first))
    first.close()
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["cut", "flip", "zero", "more"])):
        case "cut":
            del content[at:]
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "zero":
            content[at:] = bytes(len(content) - at)
        case _:
            content += data.draw(st.binary(min_size=1, max_size=120))
    file.write_bytes(content)
    again = followed(folder / "journal", file)
    assert again.root(len(again)) == wanted
    again.close()
    once_more = LogIndex(folder / "journal", file, SECRET)
    assert len(once_more) == len(again)  # nothing is left to be read again
    once_more.close()


def test_a_log_of_another_journal_or_secret_is_made_again(tmp_path: Path, journal: Path) -> None:
    file = tmp_path / "log.tree"
    followed(journal, file).close()
    write(tmp_path / "other", example_story().records[3:9])
    assert followed(tmp_path / "other", file).root(6) == followed(tmp_path / "other").root(6)
    other = LogIndex(journal, file, bytes(32))
    other.catch_up()
    assert other.root(3) != followed(journal).root(3)


@pytest.mark.parametrize("job", ["job-a", "job-b"])
def test_an_invoice_bundle_is_sound_and_says_what_the_books_say(journal: Path, job: str) -> None:
    bundle = bundle_of(journal, job)
    found = verify_invoice(bundle, public_key=public_key_of(KEY))
    assert [check.name for check in found.checks if not check.ok] == []
    assert bundle["body"]["invoice"]["billed_nanos"] == sum(nanos for lease, nanos in example_story().charged.items() if example_story().leases[lease][0] == job)
    seen = {str(bundle["body"]["head"]["size"]): bundle["body"]["head"]["root"]}
    assert first_bad(bundle, seen=seen) is None
    assert first_bad(bundle, seen=dict.fromkeys(seen, "0" * 64)) == "history"
    assert first_code(bundle, seen=dict.fromkeys(seen, "0" * 64)) == "another_history"
    newer = {str(bundle["body"]["head"]["size"] + 1): "0" * 64}
    assert first_code(bundle, seen=newer) == "older_head"
    assert first_code(bundle, seen=seen | newer) is None, "an older head that was seen is known to be of this history"


def _event(bundle: Json, kind: str) -> Json:
    for record in bundle["body"]["records"]:
        for one in record["events"]:
            if one["event"]["type"] == kind:
                event: Json = one["event"]
                return event
    raise AssertionError(f"no {kind}")


def _inner(bundle: Json) -> Json:
    """An event that shares its record with others."""
    return next(one for record in bundle["body"]["records"] for one in record["events"] if record["count"] > 1)


def _without(bundle: Json, kind: str) -> None:
    for record in bundle["body"]["records"]:
        record["events"] = [one for one in record["events"] if one["event"]["type"] != kind]


def _add(bundle: Json, part: str, name: str, more: int) -> None:
    bundle["body"][part][name] += more


# Each forged by somebody who has the market's key and signs it again.
FORGERIES: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "a dearer line": ("bill", lambda b: b["body"]["invoice"]["lines"][0].update(amount_nanos=1)),
    "another sum": ("bill", lambda b: _add(b, "invoice", "billed_nanos", 1)),
    "a lease's price": ("inclusion", lambda b: _event(b, "lease_granted").update(price_nanos_per_gpu_hour=1)),
    "a charge": ("inclusion", lambda b: _event(b, "lease_charged").update(amount_nanos=1)),
    "another time": ("inclusion", lambda b: b["body"]["records"][0].update(at_ms=1)),
    "another number": ("inclusion", lambda b: b["body"]["records"][0].update(number=2)),
    "an event twice": (
        "inclusion",
        lambda b: b["body"]["records"][0]["events"].append(b["body"]["records"][0]["events"][0]),
    ),
    "no proofs": ("inclusion", lambda b: b["body"]["records"][0].update(path=[])),
    "a refund left out": ("bill", lambda b: _without(b, "lease_ended")),
    "charges left out": ("bill", lambda b: _without(b, "lease_charged")),
    "another market's head": ("head", lambda b: b["body"]["head"].update(market="other")),
    "a head of another size": ("head", lambda b: _add(b, "head", "size", 1)),
    "no proofs of an event": ("inclusion", lambda b: _inner(b).update(path=[])),
    "no records": ("inclusion", lambda b: b["body"].update(records=[])),
    "another job's name": ("bill", lambda b: b["body"].update(job="job-z")),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_invoice_is_found_and_named(journal: Path, name: str) -> None:
    bad, forge = FORGERIES[name]
    bundle = copy.deepcopy(bundle_of(journal, "job-a"))
    forge(bundle)
    assert first_bad(bundle) == "digest"
    assert first_bad(seal(INVOICE_FORMAT, bundle["body"], KEY)) == bad


def test_a_bundle_that_leaves_out_money_that_moved_is_incomplete(journal: Path) -> None:
    body = bundle_of(journal, "job-a")["body"]
    for record in body["records"]:
        record["events"] = [one for one in record["events"] if one["event"].get("kind") != "release"]
    if not any(one["event"].get("state") == "done" for record in body["records"] for one in record["events"]):
        pytest.fail("the story's job is over")
    from storage.bills import bill_of

    events = [(record["at_ms"], one["event"]) for record in body["records"] for one in record["events"]]
    body["invoice"] = bill_of(events)
    assert first_bad(seal(INVOICE_FORMAT, body, KEY)) == "complete"


def test_a_bundle_says_who_saw_its_log_and_a_witness_that_is_asked_for_must_have(journal: Path) -> None:
    bundle, log, mine, anns = bundle_of(journal, "job-a"), followed(journal), new_signing_key(), new_signing_key()
    size, last = len(log), bundle["body"]["records"][-1]["number"]

    def cosigned(at: int, key: bytes = mine, owner: bytes = KEY, root: bytes | None = None) -> Json:
        head = TreeHead.signed("m", at, root or log.root(at), 1, owner)
        row = CosignedHead(head, (cosign(head, "bob", 2, key), cosign(head, "ann", 2, anns))).to_json()
        return row | {"path": [one.hex() for one in log.consistency(at, size)]}

    def code(row: Json, *wanted: bytes, **more: Any) -> str | None:
        return first_code(bundle | {"cosigned": [row]}, witnesses=[public_key_of(key) for key in wanted], **more)

    assert code(cosigned(last), mine, anns) is None
    assert code(cosigned(last - 1)) is None
    assert code(cosigned(last - 1), mine) == "not_cosigned", "it has not seen every event shown"
    assert code(cosigned(last), new_signing_key()) == "not_cosigned"
    assert first_code(bundle, witnesses=[public_key_of(mine)]) == "not_cosigned"
    told = {check.name: check.detail for check in verify_invoice(bundle | {"cosigned": [cosigned(last)]}).checks}
    assert f"saw {last} of {size} records; 2 of them saw every event shown" in told["cosigned"]
    assert code(cosigned(last, root=bytes(32))) == "another_history"
    assert code(cosigned(last - 1), seen={str(last - 1): "0" * 64, str(size): log.root(size).hex()}) == "another_history"
    assert code(cosigned(last, owner=mine)) == "stranger", "a head by another key is no word of the market's"
    forged = cosigned(last)
    forged["cosignatures"][0]["at_s"] += 1
    assert code(forged) == "bad_cosignature"
    assert code({"head": 7}) == "bad_form"


def test_what_a_cosigner_signs_is_a_c2sp_checkpoint() -> None:
    """As tlog-cosignature.md has it: an empty log of a market called m."""
    head = TreeHead.signed("m", 0, EMPTY_ROOT, 1, bytes(32))
    text = b"cosignature/v1\ntime 9\ntorg/m\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    made = cosign(head, "ann", 9, bytes(range(32)))
    assert is_signed_by(public_key_of(bytes(range(32))), text, made.signature)


def test_signatures_by_strangers_are_refused(journal: Path) -> None:
    bundle = bundle_of(journal, "job-a")
    stranger = new_signing_key()
    again = seal(INVOICE_FORMAT, bundle["body"], stranger)
    assert first_bad(again) == "head"  # the head is the market's, the bundle is not
    assert first_bad(again, public_key=public_key_of(KEY)) == "signature"
    assert first_bad(bundle | {"signature": None}, public_key=public_key_of(KEY)) == "signature"
    assert first_bad(bundle, public_key=public_key_of(stranger)) == "signature"
    assert first_code(again, public_key=public_key_of(KEY)) == "stranger"
    bundle["body"]["records"][0]["path"] = []
    assert first_code(seal(INVOICE_FORMAT, bundle["body"], KEY)) == "empty_proof"
    assert first_code(seal(INVOICE_FORMAT, {**bundle["body"], "records": []}, KEY)) == "no_events"


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format", "body", "digest", "signature", "job", "head"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_nothing_that_is_no_bundle_raises(value: Any) -> None:
    assert not verify_invoice(value).ok
    assert not verify_invoice({"format": INVOICE_FORMAT, "body": value, "digest": "", "signature": None}).ok


def test_a_head_that_is_not_one_says_what_is_wrong() -> None:
    head = TreeHead.signed("m", 3, bytes(32), 5, KEY)
    assert TreeHead.parse(head.to_json()) == head
    head.check_signature()
    for name, value in {"size": -1, "root": "zz", "market": 7, "signature": "00" * 63, "at_ms": True}.items():
        with pytest.raises(BadHead, match=name if name != "at_ms" else "at_ms"):
            TreeHead.parse(head.to_json() | {name: value})
    with pytest.raises(BadHead, match="not signed by the key"):
        TreeHead.parse(head.to_json() | {"size": 4}).check_signature()
    with pytest.raises(BadHead, match="has the fields"):
        TreeHead.parse({**head.to_json(), "more": 1})
