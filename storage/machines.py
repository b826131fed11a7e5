"""What a provider says of the machine that a worker runs on, signed by the provider's own key.

    {"facts": {...}, "public_key": hex, "signature": hex}

The signature (Ed25519) is over the ASCII bytes `torg-machine-1:` + SHA-256 of the canonical JSON of {"lease", "epoch", "facts"}:
it says who answers for the facts, and for which lease, not that they are true.
"""

from collections.abc import Mapping
from typing import Any, Final

from storage.canonical import digest_of
from storage.checks import demand
from storage.signing import is_signed_by, public_key_of, sign

FORMAT: Final = "torg-machine-1"
FIELDS: Final = frozenset({"facts", "public_key", "signature"})
Json = dict[str, Any]


def sign_machine(lease: str, epoch: int, facts: Mapping[str, Any], key: bytes) -> Json:
    """The facts with a provider's signature. key: a raw Ed25519 private key, 32 bytes (needs `cryptography`)."""
    return {"facts": dict(facts), "public_key": public_key_of(key), "signature": sign(key, _text(lease, epoch, facts))}


def check_machine(started: Mapping[str, Any]) -> None:
    """Whether the machine of a `lease_started` event is signed by the key beside it. Raises Wrong, NoSignatures."""
    machine = started["machine"]
    demand(set(machine) == FIELDS, f"lease {started['lease']}: a field of its machine is missing or unknown", "bad_form")
    text = _text(started["lease"], started["epoch"], machine["facts"])
    signed = is_signed_by(machine["public_key"], text, machine["signature"])
    demand(signed, f"lease {started['lease']}: its machine is not signed by the key beside it", "stranger")


def _text(lease: str, epoch: int, facts: Mapping[str, Any]) -> bytes:
    return f"{FORMAT}:{digest_of({'lease': lease, 'epoch': epoch, 'facts': dict(facts)})}".encode("ascii")
