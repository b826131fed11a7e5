"""Check a bundle of the first format (torg-bundle-1) offline, with the standard library only (the signature needs `cryptography`).

Checks, in order: format, digest, signature, spec, chain (each statement names the one before), statements (well
formed, one job, rounds and steps follow on), outputs (each checkpoint names the one before), work, transfers,
charges (every charge of a statement is a transfer, to the nano), totals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from storage.blobs import DIGEST
from storage.canonical import digest_of
from storage.checks import BundleVerification, Examination, check_digest, check_form, check_signature, demand
from storage.ledger import GRANTS, WORLD, Ledger, Transfer, escrow
from storage.statements import BUNDLE_FORMAT, PREDICATE_TYPE, STATEMENT_TYPE, statement_digest, totals_of
from storage.units import format_usd

_NAMES: Final = {
    "job", "spec", "spec_digest", "statements", "statement_digests", "transfers", "totals", "journal",
}  # fmt: skip


def verify_first_format(bundle: object, *, public_key: str | None = None) -> BundleVerification:
    """Check everything that a bundle says about itself; never raises for what is in it.

    With `public_key` (hex) the signature must be there and be by that key; without, a signature only proves that
    the bundle was made by whoever owns the key it names.
    """
    examined = Examination()
    if examined.check("format", lambda: check_form(bundle, BUNDLE_FORMAT, _NAMES)):
        whole: Any = bundle
        body = whole["body"]
        examined.check("digest", lambda: check_digest(whole))
        examined.check("signature", lambda: check_signature(whole, BUNDLE_FORMAT, public_key))
        examined.check("spec", lambda: _spec(body))
        examined.check("chain", lambda: _chain(body))
        examined.check("statements", lambda: check_statements(body["job"], body["statements"]))
        examined.check("outputs", lambda: check_outputs(body["job"], body["statements"]))
        examined.check("work", lambda: _work(body))
        examined.check("transfers", lambda: check_transfers(body["job"], body["transfers"]))
        examined.check("charges", lambda: check_charges(body["statements"], body["transfers"]))
        examined.check("totals", lambda: _totals(body))
    return examined.verdict()


def _spec(body: Mapping[str, Any]) -> str:
    found = digest_of(body["spec"])
    demand(found == body["spec_digest"], f"the spec has the digest {found}, and the bundle says {body['spec_digest']}")
    return f"the spec has the digest {found[:16]}…"


def _chain(body: Mapping[str, Any]) -> str:
    digests = [statement_digest(statement) for statement in body["statements"]]
    demand(digests == body["statement_digests"], "a statement has another digest than the bundle says")
    for before, statement in zip([None, *digests], body["statements"], strict=False):
        named = statement["predicate"]["parents"]["statement"]
        segment = statement["predicate"]["segment"]
        demand(named == before, f"segment {segment} names the statement {named} as the one before, and it is {before}")
    return f"{len(digests)} statements, each names the one before"


def check_statements(job: str, statements: Sequence[Mapping[str, Any]]) -> str:
    """Whether they are of one job and their rounds and steps follow on."""
    last_round = last_step = 0
    for ordinal, statement in enumerate(statements, start=1):
        predicate = statement["predicate"]
        where = f"segment {ordinal}"
        demand(statement["_type"] == STATEMENT_TYPE, f"{where} is not an in-toto statement")
        demand(statement["predicateType"] == PREDICATE_TYPE, f"{where} has another predicate type")
        demand(predicate["segment"] == ordinal, f"{where} says that it is segment {predicate['segment']}")
        demand(predicate["job"] == job, f"{where} belongs to the job {predicate['job']}")
        first, last = predicate["rounds"]["first"], predicate["rounds"]["last"]
        demand(first == last_round + 1 and last >= first, f"{where} has rounds {first} to {last} after {last_round}")
        began, ended = predicate["steps"]["first"], predicate["steps"]["last"]
        demand(began == last_step and ended >= began, f"{where} has steps {began} to {ended} after {last_step}")
        last_round, last_step = last, ended
    return f"rounds 1 to {last_round}, {last_step} steps" if last_round else "no work yet"


def check_outputs(job: str, statements: Sequence[Mapping[str, Any]]) -> str:
    """Whether each statement is about the checkpoint that it made, from the one before."""
    before = None
    for statement in statements:
        predicate = statement["predicate"]
        outputs, where = predicate["outputs"], f"segment {predicate['segment']}"
        demand(DIGEST.fullmatch(str(outputs["manifest"])) is not None, f"{where} has no checkpoint manifest")
        subject = [
            {
                "name": f"{job}/checkpoint/{predicate['rounds']['last']}",
                "digest": {"sha256": outputs["manifest"]},
            }
        ]
        demand(statement["subject"] == subject, f"{where} is about another checkpoint than it made")
        demand(predicate["parents"]["manifest"] == before, f"{where} did not start from the checkpoint before it")
        before = outputs["manifest"]
    return f"the newest checkpoint is {before}" if before else "no checkpoint yet"


def _work(body: Mapping[str, Any]) -> str:
    tokens, providers = 0, set()
    for statement in body["statements"]:
        for work in statement["predicate"]["work"]:
            counts = [work[name] for name in ("epoch", "slot", "rounds", "steps", "tokens", "leased_ms", "trained_ms")]
            where = f"segment {statement['predicate']['segment']}, lease {work['lease']}"
            demand(all(type(count) is int and count >= 0 for count in counts), f"{where}: not a count")
            tokens += work["tokens"]
            providers.add(work["provider"])
    return f"{tokens} tokens by {len(providers)} providers"


ELSEWHERE: Final = ("refund", "expire")
"""Kinds of transfers of a job that do not touch its escrow, so that they are not replayed with it."""


def check_transfers(job: str, transfers: Sequence[Mapping[str, Any]]) -> str:
    """Replays the job's transfers, with the customers' wallets filled first, so that only the escrow can overdraw."""
    ledger = Ledger()
    account = escrow(job)
    for row in transfers:
        transfer = Transfer(**row)
        demand(transfer.job == job, f"the transfer {transfer.id} belongs to the job {transfer.job}")
        touches = account in (transfer.debit, transfer.credit) or transfer.kind == "correction"
        demand(touches, f"the transfer {transfer.id} does not touch {account}")
        if transfer.kind == "hold":
            kind, source = ("grant", GRANTS) if transfer.debit.startswith("credit:") else ("deposit", WORLD)
            ledger.apply(Transfer(f"world:{transfer.id}", kind, source, transfer.debit, transfer.amount_nanos))
        status = ledger.apply(transfer)
        demand(status == "created", f"the transfer {transfer.id} would be refused: {status}")
    demand(ledger.total() == 0, "the transfers do not balance")
    return f"{len(transfers)} transfers, balanced"


def check_charges(statements: Sequence[Mapping[str, Any]], transfers: Sequence[Mapping[str, Any]]) -> str:
    """Statements may say less than the transfers (the last settlement has no segment), never other or more."""
    paid: dict[str, list[int]] = {}
    for row in transfers:
        if row["kind"] in ("charge", "fee"):
            sums = paid.setdefault(row["lease"], [0, 0])
            sums[0] += row["amount_nanos"]
            sums[1] += row["amount_nanos"] if row["kind"] == "fee" else 0
    stated: dict[str, list[int]] = {}
    until: dict[str, int] = {}
    for statement in statements:
        for charge in statement["predicate"]["charges"]:
            lease, where = charge["lease"], f"segment {statement['predicate']['segment']}, lease {charge['lease']}"
            demand(type(charge["amount_nanos"]) is int and charge["amount_nanos"] >= 0, f"{where}: not an amount")
            demand(type(charge["fee_nanos"]) is int and charge["fee_nanos"] >= 0, f"{where}: not a fee")
            demand(charge["to_ms"] >= charge["from_ms"] >= until.get(lease, 0), f"{where}: time is charged twice")
            until[lease] = charge["to_ms"]
            sums = stated.setdefault(lease, [0, 0])
            sums[0] += charge["amount_nanos"]
            sums[1] += charge["fee_nanos"]
    for lease, (amount, fee) in stated.items():
        found = paid.get(lease, [0, 0])
        demand(amount <= found[0] and fee <= found[1], f"lease {lease}: statements charge more than was transferred")
    settled = sum(sums[0] for sums in paid.values()) - sum(sums[0] for sums in stated.values())
    return f"every charge is a transfer; {format_usd(settled)} dollars were settled outside segments"


def _totals(body: Mapping[str, Any]) -> str:
    found = totals_of(body["transfers"])
    demand(found == body["totals"], f"the transfers add up to {found}, and the bundle says {body['totals']}")
    demand(found["escrow_left_nanos"] >= 0, "more was paid than held")
    return f"{format_usd(found['billed_nanos'])} dollars billed, {format_usd(found['released_nanos'])} given back"
