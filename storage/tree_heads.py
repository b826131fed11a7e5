"""Signed heads of the market's log: what a market said that its history was, in a form that it cannot take back.

    {"market", "size", "root": hex, "at_ms", "public_key": hex, "signature": hex}

The signature is Ed25519 over the ASCII bytes `torg-tree-head-1:market:size:root:at_ms`. Two heads of one market that are
both signed, and not consistent, prove that it showed two histories.
"""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

FORMAT = "torg-tree-head-1"


class BadHead(ValueError):
    """This is not a signed head; the text says what is wrong with it."""


class NoSignatures(Exception):
    """The package `cryptography` is missing, so signatures cannot be checked."""


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
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(signing_key)
        public_key = key.public_key().public_bytes_raw().hex()
        unsigned = cls(market, size, root.hex(), at_ms, public_key, "")
        return cls(market, size, root.hex(), at_ms, public_key, key.sign(unsigned.signed_text).hex())

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
            if len(value[name]) != digits or not set(value[name]) <= set("0123456789abcdef"):
                raise BadHead(f"{name} of a head is not {digits} digits of lower-case hex")
        if value["size"] < 0 or value["at_ms"] < 0 or not value["market"].isascii():
            raise BadHead("size and at_ms of a head are not negative, its market is ASCII")
        return cls(**{name: value[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return {name: getattr(self, name) for name in ("market", "size", "root", "at_ms", "public_key", "signature")}

    def check_signature(self) -> None:
        """Raises BadHead unless the key that it names signed it, NoSignatures where that cannot be seen."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise NoSignatures("the package `cryptography` is not installed here") from error
        try:
            key = Ed25519PublicKey.from_public_bytes(binascii.unhexlify(self.public_key))
            key.verify(binascii.unhexlify(self.signature), self.signed_text)
        except (InvalidSignature, ValueError) as error:
            raise BadHead(f"the head is not signed by the key {self.public_key[:16]}…") from error
