"""Signed heads of the market's log: what a market said that its history was, in a form that it cannot take back.

    {"market", "size", "root": hex, "at_ms", "public_key": hex, "signature": hex}

The signature is Ed25519 over the ASCII bytes `torg-tree-head-1:market:size:root:at_ms`. Two heads of one market that are
both signed, and not consistent, prove that it showed two histories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from storage.signing import NoSignatures, is_signed_by, public_key_of, sign

__all__ = ["BadHead", "NoSignatures", "TreeHead", "is_hex"]

FORMAT = "torg-tree-head-1"


class BadHead(ValueError):
    """This is not a signed head; the text says what is wrong with it."""


def is_hex(text: str, digits: int) -> bool:
    """Whether it is that many digits of lower-case hex."""
    return len(text) == digits and set(text) <= set("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The log of the first `size` records of a market has this root (hex)."""

    market: str
    size: int
    root: str
    at_ms: int
    public_key: str
    signature: str

    @property
    def signed_text(self) -> bytes:
        """What the signature is over."""
        return f"{FORMAT}:{self.market}:{self.size}:{self.root}:{self.at_ms}".encode("ascii")

    @classmethod
    def signed(cls, market: str, size: int, root: bytes, at_ms: int, signing_key: bytes) -> Self:
        """Sign a head with the market's raw Ed25519 key (32 bytes; needs `cryptography`)."""
        unsigned = cls(market, size, root.hex(), at_ms, public_key_of(signing_key), "")
        return replace(unsigned, signature=sign(signing_key, unsigned.signed_text))

    @classmethod
    def parse(cls, value: object) -> Self:
        """A head as somebody sent it; the signature is not checked. Raises BadHead."""
        names = {"market": str, "size": int, "root": str, "at_ms": int, "public_key": str, "signature": str}
        if not isinstance(value, Mapping) or set(value) != set(names):
            raise BadHead(f"a head has the fields {', '.join(names)}")
        for name, kind in names.items():
            if type(value[name]) is not kind:
                raise BadHead(f"{name} of a head is {value[name]!r}")
        for name, digits in {"root": 64, "public_key": 64, "signature": 128}.items():
            if not is_hex(value[name], digits):
                raise BadHead(f"{name} of a head is not {digits} digits of lower-case hex")
        if value["size"] < 0 or value["at_ms"] < 0 or not value["market"].isascii():
            raise BadHead("size and at_ms of a head are not negative, its market is ASCII")
        return cls(**{name: value[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return {name: getattr(self, name) for name in ("market", "size", "root", "at_ms", "public_key", "signature")}

    def check_signature(self) -> None:
        """Raises BadHead unless the key that it names signed it, NoSignatures where that cannot be seen."""
        if not is_signed_by(self.public_key, self.signed_text, self.signature):
            raise BadHead(f"the head is not signed by the key {self.public_key[:16]}…")
