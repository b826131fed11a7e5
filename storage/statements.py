"""Proof of where a model and a bill come from, checked offline by somebody who trusts nobody.

Each segment of work between two durable checkpoints leaves a statement in the shape of an in-toto Statement v1,
with a predicate type of our own. Statements are chained by digest. A bundle holds all statements of a job, its
spec, its transfers and the totals:

    {"format": "torg-bundle-1",
     "body": {"job", "spec", "spec_digest", "statements": [...], "statement_digests": [...],
              "transfers": [{id, kind, debit, credit, amount_nanos, job, lease}...],
              "totals": {...}, "journal": {"records", "head"} | null},
     "digest": SHA-256 of the canonical JSON of `body`,
     "signature": {"algorithm": "ed25519", "public_key": hex, "value": hex} | null}

The signature is over the ASCII bytes `torg-bundle-1:` + digest. `verify_bundle` needs the standard library only;
the signature needs `cryptography`, and without it that check says that it was skipped, and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.canonical import canonical_bytes, digest_of, parse_json
from storage.checks import seal
from storage.ledger import Transfer

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:torg:training-segment:v1"
BUNDLE_FORMAT = "torg-bundle-1"


@dataclass(frozen=True, slots=True)
class Work:
    """What one lease did within a segment; times are metered milliseconds."""

    lease: str
    epoch: int
    slot: int
    provider: str
    rounds: int
    steps: int
    tokens: int
    leased_ms: int
    trained_ms: int


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge that was decided with the segment; `amount_nanos` includes the fee."""

    lease: str
    epoch: int
    from_ms: int
    to_ms: int
    amount_nanos: int
    fee_nanos: int


@dataclass(frozen=True, slots=True)
class SegmentOutputs:
    """What the segment made: the checkpoint's manifest, its state blob, the digest of the agreed parameters."""

    manifest: str
    state: str | None
    parameters: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """Everything that a statement says. Segments of a job count from 1; rounds and steps are inclusive.

    `first_step` is the inner steps per worker before the segment, `last_step` after it. `data` is the digest of
    the data blob (None for generated data or a provider's share, which `data_label` then names).
    """

    job: str
    segment: int
    first_round: int
    last_round: int
    first_step: int
    last_step: int
    parent_statement: str | None
    parent_manifest: str | None
    code: str | None
    code_label: str
    data: str | None
    data_label: str
    order_seed: int
    hyperparameters: Mapping[str, Any]
    work: tuple[Work, ...]
    outputs: SegmentOutputs
    charges: tuple[Charge, ...]


def make_statement(segment: Segment) -> dict[str, Any]:
    """The statement of a segment, plain JSON; its digest is `statement_digest` of it."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": f"{segment.job}/checkpoint/{segment.last_round}", "digest": {"sha256": segment.outputs.manifest}}
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "job": segment.job,
            "segment": segment.segment,
            "rounds": {"first": segment.first_round, "last": segment.last_round},
            "steps": {"first": segment.first_step, "last": segment.last_step},
            "parents": {"statement": segment.parent_statement, "manifest": segment.parent_manifest},
            "code": {"digest": segment.code, "label": segment.code_label},
            "data": {"digest": segment.data, "label": segment.data_label, "order_seed": segment.order_seed},
            "hyperparameters": dict(segment.hyperparameters),
            "work": [_plain(each) for each in segment.work],
            "outputs": _plain(segment.outputs),
            "charges": [_plain(each) for each in segment.charges],
        },
    }


def _plain(record: Work | SegmentOutputs | Charge) -> dict[str, Any]:
    """Its fields, which are all plain values: `asdict` copies deeply and takes ten times as long."""
    return {name: getattr(record, name) for name in record.__slots__}


def statement_digest(statement: Mapping[str, Any]) -> str:
    """The digest by which the next statement names this one."""
    return digest_of(statement)


def totals_of(transfers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sums of a job's transfers: held, earned by providers, fee, billed (= earned + fee), released, escrow left."""
    sums = dict.fromkeys(("hold", "charge", "fee", "release", "award"), 0)
    for transfer in transfers:
        if transfer["kind"] in sums:
            sums[transfer["kind"]] += transfer["amount_nanos"]
    billed = sums["charge"] + sums["fee"]
    return {
        "held_nanos": sums["hold"],
        "earned_nanos": sums["charge"],
        "fee_nanos": sums["fee"],
        "billed_nanos": billed,
        "released_nanos": sums["release"],
        "escrow_left_nanos": sums["hold"] - billed - sums["release"] - sums["award"],
    }


def make_bundle(
    job: str,
    spec: Mapping[str, Any],
    statements: Sequence[Mapping[str, Any]],
    transfers: Sequence[Transfer],
    *,
    journal: tuple[int, str] | None = None,
    signing_key: bytes | None = None,
) -> dict[str, Any]:
    """Everything that proves a job, as plain JSON.

    `transfers` are all of the job's, in journal order. `journal` is (records, head) of the journal at this
    moment. `signing_key` is the market's raw Ed25519 private key (32 bytes; needs `cryptography`); without it
    the bundle is not signed.
    """
    rows = [_transfer_row(transfer) for transfer in transfers]
    body = {
        "job": job,
        "spec": dict(spec),
        "spec_digest": digest_of(spec),
        "statements": [dict(statement) for statement in statements],
        "statement_digests": [statement_digest(statement) for statement in statements],
        "transfers": rows,
        "totals": totals_of(rows),
        "journal": None if journal is None else {"records": journal[0], "head": journal[1]},
    }
    return seal(BUNDLE_FORMAT, body, signing_key)


def load_bundle(data: bytes) -> Any:
    """The JSON of a bundle file; raises storage.canonical.NotCanonical for what is not strict JSON."""
    return parse_json(data)


def bundle_bytes(bundle: Mapping[str, Any]) -> bytes:
    """A bundle as a file's bytes."""
    return canonical_bytes(bundle) + b"\n"


def _transfer_row(transfer: Transfer) -> dict[str, Any]:
    row = transfer.event()
    del row["type"]
    return row
