"""A stream of bytes in sealed pieces: a byte that was changed, lost or added is found, and its place named.

    offset  size  field
    0       8     magic `TORGBAK1`; the last digit is the version
    8       4     length of the header, little-endian u32
    12      h     header, canonical JSON: {"cipher": "none" | "aes-256-gcm", "kdf": null | {"name", "n", "r", "p", "salt"}}
    12 + h        pieces until one that says that it is the last; nothing follows it

A piece: u32 little-endian, its n bytes (at most 1 MiB), with the highest bit set in the last piece; n bytes; a seal.
Without a cipher the seal is SHA-256(seal before ‖ u32 ‖ bytes), the one before the first being SHA-256 of everything that
precedes it. With one, bytes and seal (16 bytes) are AES-256-GCM under scrypt(passphrase, salt), nonce the piece's number
as 12 bytes big-endian, associated data SHA-256 of everything before the first piece ‖ u32.
"""

import hashlib
import io
import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from storage.canonical import NotCanonical, canonical_bytes, parse_json

MAGIC: Final = b"TORGBAK1"
PIECE_BYTES: Final = 1 << 20
_LAST: Final = 1 << 31
_SEAL_BYTES: Final = 16
_MAX_HEADER_BYTES: Final = 4096
_SCRYPT: Final = {"name": "scrypt", "n": 1 << 15, "r": 8, "p": 1}
_U32 = struct.Struct("<I")
Crypt = Callable[[bytes, bytes, bytes], bytes]


class SealError(Exception):
    """These bytes cannot be trusted, or not be read; the text says where and why. `code`: torn, changed, newer, other,
    passphrase_missing, passphrase_wrong."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SealedWriter(io.RawIOBase):
    """Writes the stream to `file`; encrypts it where there is a passphrase. `close` writes the last piece."""

    def __init__(self, file: BinaryIO, passphrase: bytes | None = None) -> None:
        kdf = None if passphrase is None else {**_SCRYPT, "salt": os.urandom(16).hex()}
        header = canonical_bytes({"cipher": "none" if kdf is None else "aes-256-gcm", "kdf": kdf})
        head = MAGIC + _U32.pack(len(header)) + header
        file.write(head)
        self._file = file
        self._seal = hashlib.sha256(head).digest()
        self._encrypt = None if passphrase is None or kdf is None else _cipher(passphrase, kdf).encrypt
        self._held = bytearray()
        self._number = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Take bytes; whole pieces go out."""
        self._held += data
        while len(self._held) > PIECE_BYTES:
            self._piece(bytes(self._held[:PIECE_BYTES]), last=False)
            del self._held[:PIECE_BYTES]
        return len(data)

    def close(self) -> None:
        """Write the last piece; the file stays open. A second call does nothing."""
        if not self.closed:
            self._piece(bytes(self._held), last=True)
        super().close()

    def _piece(self, body: bytes, *, last: bool) -> None:
        head = _U32.pack(len(body) | (_LAST if last else 0))
        if self._encrypt is not None:
            self._file.write(head + self._encrypt(_nonce(self._number), body, self._seal + head))
        else:
            self._seal = _next_seal(self._seal, head, body)
            self._file.write(head + body + self._seal)
        self._number += 1


class SealedReader(io.RawIOBase):
    """Reads what a SealedWriter wrote; raises SealError before it gives out a byte that was changed."""

    def __init__(self, file: BinaryIO, passphrase: bytes | None = None) -> None:
        self._file = file
        self._held = memoryview(b"")
        self._number = 0
        self._over = False
        self._seal = b""
        self._decrypt = self._read_head(passphrase)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much as the piece at hand has; 0 at the end."""
        while not self._held and not self._over:
            self._held = memoryview(self._next_piece())
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size

    def _read_head(self, passphrase: bytes | None) -> "Crypt | None":
        start = self._file.read(len(MAGIC) + _U32.size)
        if len(start) < len(MAGIC) + _U32.size or start[:7] != MAGIC[:7]:
            raise SealError("other", "this is not a backup of a market: it does not begin as one")
        if start[:8] != MAGIC:
            theirs, ours = start[7:8].decode("ascii", "replace"), MAGIC[7:8].decode("ascii")
            raise SealError("newer", f"the backup has format {theirs}, and this torg reads format {ours}")
        (length,) = _U32.unpack(start[8:])
        header = self._file.read(min(length, _MAX_HEADER_BYTES))
        try:
            found = parse_json(header)
            kdf = found["kdf"]
            known = found["cipher"] == ("none" if kdf is None else "aes-256-gcm")
            if not known or (kdf is not None and {**kdf, "salt": ""} != {**_SCRYPT, "salt": ""}):
                raise ValueError("unknown cipher")
            salted = None if kdf is None else {**_SCRYPT, "salt": bytes.fromhex(kdf["salt"]).hex()}
        except (NotCanonical, KeyError, TypeError, ValueError) as error:
            raise SealError("changed", "the header of the backup, at byte 12, was changed") from error
        self._seal = hashlib.sha256(start + header).digest()
        if salted is None:
            return None
        if passphrase is None:
            raise SealError("passphrase_missing", "the backup is encrypted")
        decrypt: Crypt = _cipher(passphrase, salted).decrypt
        return decrypt

    def _next_piece(self) -> bytes:
        head = self._file.read(_U32.size)
        if len(head) < _U32.size:
            raise self._torn()
        (word,) = _U32.unpack(head)
        size = word & ~_LAST
        if size > PIECE_BYTES:
            raise self._changed()
        sealed_bytes = _SEAL_BYTES if self._decrypt is not None else len(self._seal)
        body = self._file.read(size + sealed_bytes)
        if len(body) < size + sealed_bytes:
            raise self._torn()
        body = self._checked(head, body, size)
        self._number += 1
        if word & _LAST:
            self._over = True
            if self._file.read(1):
                raise SealError("changed", f"bytes follow the end of the backup, piece {self._number - 1}")
        return body

    def _checked(self, head: bytes, body: bytes, size: int) -> bytes:
        if self._decrypt is None:
            self._seal = _next_seal(self._seal, head, body[:size])
            if self._seal != body[size:]:
                raise self._changed()
            return body[:size]
        from cryptography.exceptions import InvalidTag

        try:
            return self._decrypt(_nonce(self._number), body, self._seal + head)
        except InvalidTag as error:
            if self._number == 0:
                message = "the passphrase is not the one of this backup, or its first piece was changed"
                raise SealError("passphrase_wrong", message) from error
            raise self._changed() from error

    def _torn(self) -> SealError:
        return SealError("torn", f"the backup ends inside piece {self._number}, of {PIECE_BYTES} bytes each")

    def _changed(self) -> SealError:
        return SealError("changed", f"a byte of piece {self._number} was changed, of {PIECE_BYTES} bytes each")


def _next_seal(before: bytes, head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(b"".join((before, head, body))).digest()


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _cipher(passphrase: bytes, kdf: dict[str, Any]) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, n, r, p = bytes.fromhex(kdf["salt"]), kdf["n"], kdf["r"], kdf["p"]
    # One key a file, since the salt is new: so the piece's number may be the nonce.
    return AESGCM(hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=1 << 26, dklen=32))
