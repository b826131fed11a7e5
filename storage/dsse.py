"""DSSE envelopes: a statement with its signatures, as in-toto's tools read them. Checking needs `cryptography`.

    {"payloadType": "application/vnd.in-toto+json", "payload": base64, "signatures": [{"keyid": hex, "sig": base64}...]}

A signature (Ed25519) is over `DSSEv1 LENGTH TYPE LENGTH PAYLOAD` (github.com/secure-systems-lab/dsse, protocol.md); `keyid` is the
raw public key in hex, so that an envelope can be checked by itself.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from storage.canonical import canonical_bytes
from storage.checks import demand
from storage.signing import is_signed_by, public_key_of, sign

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_FIELDS: Final = {"payloadType", "payload", "signatures"}
Json = dict[str, Any]


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed of an envelope (PAE)."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def envelope(statement: Mapping[str, Any], signing_key: bytes | None) -> Json:
    """A statement in its envelope; signed with a raw Ed25519 key (32 bytes; needs `cryptography`) or not at all."""
    if signing_key is None:
        return enveloped(statement, {})
    value = sign(signing_key, pre_authentication(PAYLOAD_TYPE, canonical_bytes(statement)))
    return enveloped(statement, {public_key_of(signing_key): value})


def enveloped(statement: Mapping[str, Any], signatures: Mapping[str, str]) -> Json:
    """A statement in an envelope with signatures that were made before: hex by public key (hex)."""
    payload = base64.b64encode(canonical_bytes(statement)).decode("ascii")
    rows = [
        {"keyid": key, "sig": base64.b64encode(bytes.fromhex(value)).decode("ascii")}
        for key, value in signatures.items()
    ]
    return {"payloadType": PAYLOAD_TYPE, "payload": payload, "signatures": rows}


def payload_of(found: Mapping[str, Any]) -> bytes:
    """The bytes in an envelope; raises Wrong for what is none."""
    demand(set(found) == _FIELDS and found["payloadType"] == PAYLOAD_TYPE, "an envelope is no DSSE of in-toto", "bad_envelope")
    try:
        return base64.b64decode(found["payload"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        demand(False, "the payload of an envelope is not base64", "bad_envelope")
        raise


def check_envelope(found: Mapping[str, Any], public_key: str) -> None:
    """Whether it has exactly one signature, by this key (hex). Raises Wrong, and NoSignatures where that cannot be seen."""
    payload, signatures = payload_of(found), found["signatures"]
    demand(len(signatures) == 1 and set(signatures[0]) == {"keyid", "sig"}, "an envelope has not one signature", "not_signed")
    keyid = signatures[0]["keyid"]
    demand(keyid == public_key, f"an envelope is signed by the key {keyid}, the bundle by {public_key}", "stranger")
    try:
        value = base64.b64decode(signatures[0]["sig"], validate=True).hex()
    except (ValueError, TypeError):
        value = ""
    right = is_signed_by(public_key, pre_authentication(PAYLOAD_TYPE, payload), value)
    demand(right, f"an envelope is not signed by the key {public_key[:16]}…", "stranger")
