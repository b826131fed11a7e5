"""The house's door to proofs: statements and bundles are made in storage/statements.py, checked in verification.py."""

from storage.checks import BundleVerification, Check
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
from storage.verification import verify_bundle

__all__ = [
    "BundleVerification", "Charge", "Check", "Segment", "SegmentOutputs", "Work", "bundle_bytes", "load_bundle",
    "make_bundle", "make_statement", "new_signing_key", "public_key_of", "statement_digest", "totals_of",
    "verify_bundle",
]  # fmt: skip
