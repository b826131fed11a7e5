"""Cosigned heads: others than the market, each with a key of its own, say that they saw a head and what they hold it to.

    {"head": {a signed tree head},
     "cosignatures": [{"member", "public_key": hex, "at_s", "signature": hex}...]}

A cosigner signs a head only when the market has proven that it begins with every head that the cosigner saw before. The
signature is that of C2SP's tlog-cosignature (v1, Ed25519) over the head as a C2SP checkpoint, so that other witnesses and
tools can sign and read it: ASCII lines, each with a newline,

    cosignature/v1
    time AT_S
    torg/MARKET
    SIZE
    ROOT in base64

`member` is the market's word on whose key it is; the key is what counts. A cosigned head holds the market's own signature
too, so two that do not fit prove that the market showed two histories.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from storage.signing import is_signed_by, public_key_of, sign
from storage.tree_heads import BadHead, TreeHead, is_hex

ORIGIN = "torg"
MOST_COSIGNATURES = 64
_FIELDS = {"member": str, "public_key": str, "at_s": int, "signature": str}


@dataclass(frozen=True, slots=True)
class Cosignature:
    """Whoever has this key saw the head at `at_s` (seconds since 1970, by its own clock)."""

    member: str
    public_key: str
    at_s: int
    signature: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """As somebody sent it; the signature is not checked. Raises BadHead."""
        if not isinstance(value, Mapping) or set(value) != set(_FIELDS):
            raise BadHead(f"a cosignature has the fields {', '.join(_FIELDS)}")
        for name, kind in _FIELDS.items():
            if type(value[name]) is not kind:
                raise BadHead(f"{name} of a cosignature is {value[name]!r}")
        if not (is_hex(value["public_key"], 64) and is_hex(value["signature"], 128) and value["at_s"] >= 0):
            raise BadHead("a cosignature has a key of 64 and a signature of 128 digits of lower-case hex, and at_s is not negative")
        return cls(**{name: value[name] for name in _FIELDS})

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return {name: getattr(self, name) for name in _FIELDS}


@dataclass(frozen=True, slots=True)
class CosignedHead:
    """A head and those who cosigned it."""

    head: TreeHead
    cosignatures: tuple[Cosignature, ...]

    @classmethod
    def parse(cls, value: object) -> Self:
        """As somebody sent it; no signature is checked. Raises BadHead."""
        if not isinstance(value, Mapping) or set(value) != {"head", "cosignatures"}:
            raise BadHead("a cosigned head has the fields head, cosignatures")
        rows = value["cosignatures"]
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not 0 < len(rows) <= MOST_COSIGNATURES:
            raise BadHead(f"a cosigned head has 1 to {MOST_COSIGNATURES} cosignatures")
        return cls(TreeHead.parse(value["head"]), tuple(Cosignature.parse(one) for one in rows))

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return {"head": self.head.to_json(), "cosignatures": [one.to_json() for one in self.cosignatures]}

    def check_signatures(self) -> None:
        """Raises BadHead unless the market and everybody named has signed it; NoSignatures where that cannot be seen."""
        self.head.check_signature()
        for one in self.cosignatures:
            check_cosignature(self.head, one)


def checkpoint_text(head: TreeHead) -> bytes:
    """The head as the body of a C2SP checkpoint (tlog-checkpoint)."""
    root = base64.b64encode(bytes.fromhex(head.root)).decode("ascii")
    return f"{ORIGIN}/{head.market}\n{head.size}\n{root}\n".encode("ascii")


def cosigned_text(head: TreeHead, at_s: int) -> bytes:
    """What a cosigner signs."""
    return b"cosignature/v1\ntime %d\n%s" % (at_s, checkpoint_text(head))


def cosign(head: TreeHead, member: str, at_s: int, signing_key: bytes) -> Cosignature:
    """Say that this head was seen and fits. signing_key: the cosigner's raw Ed25519 key, 32 bytes."""
    return Cosignature(member, public_key_of(signing_key), at_s, sign(signing_key, cosigned_text(head, at_s)))


def check_cosignature(head: TreeHead, one: Cosignature) -> None:
    """Raises BadHead unless the key that it names cosigned this head, NoSignatures where that cannot be seen."""
    if not is_signed_by(one.public_key, cosigned_text(head, one.at_s), one.signature):
        raise BadHead(f"the head of {head.size} records is not cosigned by the key {one.public_key[:16]}…")
