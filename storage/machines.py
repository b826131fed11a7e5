"""What a provider says of the machine that a worker runs on, signed by the provider's own key.

    {"facts": {...}, "public_key": hex, "signature": hex}

The signature (Ed25519) is over the ASCII bytes `torg-machine-1:` + SHA-256 of the canonical JSON of {"lease", "epoch", "facts"}:
it says who answers for the facts, and for which lease, not that they are true.
"""

import binascii
from collections.abc import Mapping
from typing import Any, Final

from storage.canonical import digest_of
from storage.checks import demand
from storage.tree_heads import NoSignatures

FORMAT: Final = "torg-machine-1"
FIELDS: Final = frozenset({"facts", "public_key", "signature"})
Json = dict[str, Any]


def sign_machine(lease: str, epoch: int, facts: Mapping[str, Any], key: bytes) -> Json:
    """The facts with a provider's signature. key: a raw Ed25519 private key, 32 bytes (needs `cryptography`)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    owner = Ed25519PrivateKey.from_private_bytes(key)
    return {
        "facts": dict(facts),
        "public_key": owner.public_key().public_bytes_raw().hex(),
        "signature": owner.sign(_text(lease, epoch, facts)).hex(),
    }


def check_machine(started: Mapping[str, Any]) -> None:
    """Whether the machine of a `lease_started` event is signed by the key beside it. Raises Wrong, NoSignatures."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise NoSignatures("the package `cryptography` is not installed here") from error
    machine = started["machine"]
    demand(set(machine) == FIELDS, f"lease {started['lease']}: a field of its machine is missing or unknown", "bad_form")
    try:
        key = Ed25519PublicKey.from_public_bytes(binascii.unhexlify(machine["public_key"]))
        key.verify(binascii.unhexlify(machine["signature"]), _text(started["lease"], started["epoch"], machine["facts"]))
    except (InvalidSignature, ValueError):
        demand(False, f"lease {started['lease']}: its machine is not signed by the key beside it", "stranger")


def _text(lease: str, epoch: int, facts: Mapping[str, Any]) -> bytes:
    return f"{FORMAT}:{digest_of({'lease': lease, 'epoch': epoch, 'facts': dict(facts)})}".encode("ascii")
