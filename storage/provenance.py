"""The house's door to proofs: bundles of both formats are made in statements.py (the first) and provenance_bundles.py."""

from collections.abc import Collection, Mapping

from storage.checks import BundleVerification, Check
from storage.provenance_bundles import PROVENANCE_FORMAT, verify_provenance
from storage.signing import new_signing_key, public_key_of
from storage.statements import (
    Charge,
    Segment,
    SegmentOutputs,
    Work,
    bundle_bytes,
    load_bundle,
    make_bundle,
    make_statement,
    statement_digest,
    totals_of,
)
from storage.verification import verify_first_format

__all__ = [
    "BundleVerification", "Charge", "Check", "Segment", "SegmentOutputs", "Work", "bundle_bytes", "load_bundle",
    "make_bundle", "make_statement", "new_signing_key", "public_key_of", "statement_digest", "totals_of",
    "verify_bundle",
]  # fmt: skip


def verify_bundle(
    bundle: object, *, public_key: str | None = None, seen: Mapping[str, str] | None = None, witnesses: Collection[str] = ()
) -> BundleVerification:
    """Check a provenance bundle of either format; never raises for what is in it.

    What whoever checks knows from elsewhere: log_proofs.Known says it of each; a bundle of the first format has no log.
    """
    if isinstance(bundle, Mapping) and bundle.get("format") == PROVENANCE_FORMAT:
        return verify_provenance(bundle, public_key=public_key, seen=seen, witnesses=witnesses)
    found = verify_first_format(bundle, public_key=public_key)
    if not witnesses:
        return found
    told = f"a bundle without a log cannot be cosigned, and {len(witnesses)} witnesses were asked for"
    return BundleVerification(False, (*found.checks, Check("cosigned", False, told, "not_cosigned")))
