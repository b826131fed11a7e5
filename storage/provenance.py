"""The house's door to proofs: bundles of both formats are made in statements.py (the first) and provenance_bundles.py."""

from collections.abc import Mapping

from storage.checks import BundleVerification, Check
from storage.provenance_bundles import PROVENANCE_FORMAT, verify_provenance
from storage.statements import (
    Charge,
    Segment,
    SegmentOutputs,
    Work,
    bundle_bytes,
    load_bundle,
    make_bundle,
    make_statement,
    new_signing_key,
    public_key_of,
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
    bundle: object, *, public_key: str | None = None, seen: Mapping[str, str] | None = None
) -> BundleVerification:
    """Check a provenance bundle of either format; never raises for what is in it.

    public_key: hex, who must have signed it; without, a signature only proves that the bundle was made by whoever owns the key
    it names. seen: roots (hex) by size as text, of heads of its market that whoever checks has met (the second format only).
    """
    if isinstance(bundle, Mapping) and bundle.get("format") == PROVENANCE_FORMAT:
        return verify_provenance(bundle, public_key=public_key, seen=seen)
    return verify_first_format(bundle, public_key=public_key)
