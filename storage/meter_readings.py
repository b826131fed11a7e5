"""A worker's meter reading as its provider stands behind it: cumulative figures, signed with a key of that lease alone.

The signature (Ed25519, hex) is over the ASCII bytes `torg-meter-1:LEASE:EPOCH:leased_ms:trained_ms:rounds:tokens:bytes`. The
provider makes the key for the lease, leaves it to the worker on its own machine, and tells the market the public half with its
own key to the API (`meter_key` of `lease_started`). Making and checking signatures needs `cryptography`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from storage.signing import is_signed_by, new_signing_key, public_key_of, sign

FORMAT: Final = "torg-meter-1"
COUNTS: Final = ("leased_ms", "trained_ms", "rounds", "tokens", "bytes")


def new_meter_key() -> tuple[str, str]:
    """(private, public) of a fresh key, both as hex."""
    key = new_signing_key()
    return key.hex(), public_key_of(key)


def sign_reading(private_key: str, lease: str, epoch: int, reading: Mapping[str, Any]) -> str:
    """The signature of a reading, hex. `reading`: all of COUNTS."""
    return sign(bytes.fromhex(private_key), _text(lease, epoch, reading))


def is_signed(public_key: str, lease: str, epoch: int, reading: Mapping[str, Any], signature: object) -> bool:
    """Whether this key signed just this reading; False for whatever is no key, no signature or no reading."""
    try:
        text = _text(lease, epoch, reading)
    except (KeyError, ValueError):
        return False
    return is_signed_by(public_key, text, str(signature))


def _text(lease: str, epoch: int, reading: Mapping[str, Any]) -> bytes:
    return ":".join([FORMAT, lease, str(epoch), *(str(reading[name]) for name in COUNTS)]).encode("ascii")
