"""Check a bundle offline, with the standard library only (the signature needs `cryptography`).

Checks, in order: format, digest, signature, spec, chain (each statement names the one before), statements (well
formed, one job, rounds and steps follow on), outputs (each checkpoint names the one before), work, transfers,
charges (every charge of a statement is a transfer, to the nano), totals.
"""

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.blobs import DIGEST
from storage.canonical import NotCanonical, digest_of
from storage.ledger import GRANTS, WORLD, Ledger, Transfer
from storage.statements import (
    BUNDLE_FORMAT,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    signed_text,
    statement_digest,
    totals_of,
)
from storage.units import format_usd


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it holds, and a sentence that says what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class BundleVerification:
    """All checks of a bundle; `ok` if every one holds."""

    ok: bool
    checks: tuple[Check, ...]


class _Wrong(Exception):
    """A check does not hold; the text is its detail."""


def verify_bundle(bundle: object, *, public_key: str | None = None) -> BundleVerification:
    """Check everything that a bundle says about itself; never raises for what is in it.

    With `public_key` (hex) the signature must be there and be by that key; without, a signature only proves that
    the bundle was made by whoever owns the key it names.
    """
    checks: list[Check] = []

    def check(name: str, examine: Callable[[], str]) -> None:
        try:
            checks.append(Check(name, True, examine()))
        except _Wrong as wrong:
            checks.append(Check(name, False, str(wrong)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            checks.append(Check(name, False, f"not in the form of a bundle: {type(error).__name__}: {error}"))

    check("format", lambda: _format(bundle))
    if isinstance(bundle, Mapping) and checks[-1].ok:
        body: Any = bundle.get("body")
        check("digest", lambda: _digest(bundle))
        check("signature", lambda: _signature(bundle, public_key))
        check("spec", lambda: _spec(body))
        check("chain", lambda: _chain(body))
        check("statements", lambda: _statements(body))
        check("outputs", lambda: _outputs(body))
        check("work", lambda: _work(body))
        check("transfers", lambda: _transfers(body))
        check("charges", lambda: _charges(body))
        check("totals", lambda: _totals(body))
    return BundleVerification(all(each.ok for each in checks), tuple(checks))


def _demand(holds: bool, detail: str) -> None:
    if not holds:
        raise _Wrong(detail)


def _format(bundle: Any) -> str:
    _demand(isinstance(bundle, dict) and bundle.get("format") == BUNDLE_FORMAT, f"this is not a {BUNDLE_FORMAT}")
    _demand(set(bundle) == {"format", "body", "digest", "signature"}, "a field of the bundle is missing or unknown")
    names = {"job", "spec", "spec_digest", "statements", "statement_digests", "transfers", "totals", "journal"}
    _demand(isinstance(bundle["body"], dict) and set(bundle["body"]) == names, "a field of the body is odd")
    return f"a {BUNDLE_FORMAT} of job {bundle['body']['job']}"


def _digest(bundle: Mapping[str, Any]) -> str:
    try:
        found = digest_of(bundle["body"])
    except NotCanonical as error:
        raise _Wrong(str(error)) from error
    _demand(found == bundle["digest"], f"the body has the digest {found}, and the bundle says {bundle['digest']}")
    return f"the body has the digest {found[:16]}…"


def _signature(bundle: Mapping[str, Any], public_key: str | None) -> str:
    signature = bundle["signature"]
    if signature is None:
        _demand(public_key is None, "the bundle is not signed, and a signature by a certain key was asked for")
        return "not signed"
    _demand(set(signature) == {"algorithm", "public_key", "value"}, "a field of the signature is missing or unknown")
    _demand(signature["algorithm"] == "ed25519", f"unknown algorithm {signature['algorithm']!r}")
    owner, value = str(signature["public_key"]), str(signature["value"])
    _demand(owner == owner.lower() and value == value.lower(), "key and signature are written in lower-case hex")
    asked = f"signed by the key {owner}, not by {public_key}, the one asked for"
    _demand(public_key is None or owner == public_key, asked)
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        _demand(public_key is None, "the package `cryptography` is missing, so the asked-for key cannot be checked")
        return "skipped: the package `cryptography` is not installed here"
    try:
        key = Ed25519PublicKey.from_public_bytes(binascii.unhexlify(owner))
        key.verify(binascii.unhexlify(value), signed_text(str(bundle["digest"])))
    except (InvalidSignature, ValueError) as error:
        raise _Wrong(f"the signature is not by the key {owner[:16]}…") from error
    if public_key is None:
        return f"signed by whoever owns the key {owner}, which the bundle itself names"
    return f"signed by the key asked for, {owner}"


def _spec(body: Mapping[str, Any]) -> str:
    found = digest_of(body["spec"])
    _demand(found == body["spec_digest"], f"the spec has the digest {found}, and the bundle says {body['spec_digest']}")
    return f"the spec has the digest {found[:16]}…"


def _chain(body: Mapping[str, Any]) -> str:
    digests = [statement_digest(statement) for statement in body["statements"]]
    _demand(digests == body["statement_digests"], "a statement has another digest than the bundle says")
    for before, statement in zip([None, *digests], body["statements"], strict=False):
        named = statement["predicate"]["parents"]["statement"]
        segment = statement["predicate"]["segment"]
        _demand(named == before, f"segment {segment} names the statement {named} as the one before, and it is {before}")
    return f"{len(digests)} statements, each names the one before"


def _statements(body: Mapping[str, Any]) -> str:
    last_round = last_step = 0
    for ordinal, statement in enumerate(body["statements"], start=1):
        predicate = statement["predicate"]
        where = f"segment {ordinal}"
        _demand(statement["_type"] == STATEMENT_TYPE, f"{where} is not an in-toto statement")
        _demand(statement["predicateType"] == PREDICATE_TYPE, f"{where} has another predicate type")
        _demand(predicate["segment"] == ordinal, f"{where} says that it is segment {predicate['segment']}")
        _demand(predicate["job"] == body["job"], f"{where} belongs to the job {predicate['job']}")
        first, last = predicate["rounds"]["first"], predicate["rounds"]["last"]
        _demand(first == last_round + 1 and last >= first, f"{where} has rounds {first} to {last} after {last_round}")
        began, ended = predicate["steps"]["first"], predicate["steps"]["last"]
        _demand(began == last_step and ended >= began, f"{where} has steps {began} to {ended} after {last_step}")
        last_round, last_step = last, ended
    return f"rounds 1 to {last_round}, {last_step} steps" if last_round else "no work yet"


def _outputs(body: Mapping[str, Any]) -> str:
    before = None
    for statement in body["statements"]:
        predicate = statement["predicate"]
        outputs, where = predicate["outputs"], f"segment {predicate['segment']}"
        _demand(DIGEST.fullmatch(str(outputs["manifest"])) is not None, f"{where} has no checkpoint manifest")
        subject = [
            {
                "name": f"{body['job']}/checkpoint/{predicate['rounds']['last']}",
                "digest": {"sha256": outputs["manifest"]},
            }
        ]
        _demand(statement["subject"] == subject, f"{where} is about another checkpoint than it made")
        _demand(predicate["parents"]["manifest"] == before, f"{where} did not start from the checkpoint before it")
        before = outputs["manifest"]
    return f"the newest checkpoint is {before}" if before else "no checkpoint yet"


def _work(body: Mapping[str, Any]) -> str:
    tokens, providers = 0, set()
    for statement in body["statements"]:
        for work in statement["predicate"]["work"]:
            counts = [work[name] for name in ("epoch", "slot", "rounds", "steps", "tokens", "leased_ms", "trained_ms")]
            where = f"segment {statement['predicate']['segment']}, lease {work['lease']}"
            _demand(all(type(count) is int and count >= 0 for count in counts), f"{where}: not a count")
            tokens += work["tokens"]
            providers.add(work["provider"])
    return f"{tokens} tokens by {len(providers)} providers"


def _transfers(body: Mapping[str, Any]) -> str:
    """Replays the job's transfers, with the customers' wallets filled first, so that only the escrow can overdraw."""
    ledger = Ledger()
    escrow = f"escrow:{body['job']}"
    for row in body["transfers"]:
        transfer = Transfer(**row)
        _demand(transfer.job == body["job"], f"the transfer {transfer.id} belongs to the job {transfer.job}")
        _demand(escrow in (transfer.debit, transfer.credit), f"the transfer {transfer.id} does not touch {escrow}")
        if transfer.kind == "hold":
            kind, source = ("grant", GRANTS) if transfer.debit.startswith("credit:") else ("deposit", WORLD)
            ledger.apply(Transfer(f"world:{transfer.id}", kind, source, transfer.debit, transfer.amount_nanos))
        status = ledger.apply(transfer)
        _demand(status == "created", f"the transfer {transfer.id} would be refused: {status}")
    _demand(ledger.total() == 0, "the transfers do not balance")
    return f"{len(body['transfers'])} transfers, balanced"


def _charges(body: Mapping[str, Any]) -> str:
    """Statements may say less than the transfers (the last settlement has no segment), never other or more."""
    paid: dict[str, list[int]] = {}
    for row in body["transfers"]:
        if row["kind"] in ("charge", "fee"):
            sums = paid.setdefault(row["lease"], [0, 0])
            sums[0] += row["amount_nanos"]
            sums[1] += row["amount_nanos"] if row["kind"] == "fee" else 0
    stated: dict[str, list[int]] = {}
    until: dict[str, int] = {}
    for statement in body["statements"]:
        for charge in statement["predicate"]["charges"]:
            lease, where = charge["lease"], f"segment {statement['predicate']['segment']}, lease {charge['lease']}"
            _demand(type(charge["amount_nanos"]) is int and charge["amount_nanos"] >= 0, f"{where}: not an amount")
            _demand(type(charge["fee_nanos"]) is int and charge["fee_nanos"] >= 0, f"{where}: not a fee")
            _demand(charge["to_ms"] >= charge["from_ms"] >= until.get(lease, 0), f"{where}: time is charged twice")
            until[lease] = charge["to_ms"]
            sums = stated.setdefault(lease, [0, 0])
            sums[0] += charge["amount_nanos"]
            sums[1] += charge["fee_nanos"]
    for lease, (amount, fee) in stated.items():
        found = paid.get(lease, [0, 0])
        _demand(amount <= found[0] and fee <= found[1], f"lease {lease}: statements charge more than was transferred")
    settled = sum(sums[0] for sums in paid.values()) - sum(sums[0] for sums in stated.values())
    return f"every charge is a transfer; {format_usd(settled)} dollars were settled outside segments"


def _totals(body: Mapping[str, Any]) -> str:
    found = totals_of(body["transfers"])
    _demand(found == body["totals"], f"the transfers add up to {found}, and the bundle says {body['totals']}")
    _demand(found["escrow_left_nanos"] >= 0, "more was paid than held")
    return f"{format_usd(found['billed_nanos'])} dollars billed, {format_usd(found['released_nanos'])} given back"
