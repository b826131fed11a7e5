"""Members' secrets on the market's disk: sealed with a key of the market's own, one file each, outside the journal.

A file is `torgsec1`, a nonce of 12 bytes, and AES-256-GCM of the value, with `member NUL name NUL token` as associated data: a
file that is put in another's place does not open. Which files count, the journal says by their tokens; a file that it does
not name is of a call that was cut off, or was replaced, and goes when the market opens.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path

from market.homes import sync_folder, write_file

MAGIC = b"torgsec1"
NONCE_BYTES = 12
KEY_BYTES = 32
TOKEN_BYTES = 16


class VaultDamaged(Exception):
    """A secret's file is gone or does not open with this market's key; the message names neither value nor key."""


class Vault:
    """`folder` holds the files, `key_file` the key (both closed to other accounts); they are made when first needed."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        self._folder, self._key_file = folder, key_file

    def seal(self, member: str, name: str, value: str) -> str:
        """Write a value durably; the token by which it is found again. Raises OSError."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._folder.mkdir(mode=0o700, exist_ok=True)
        token, nonce = secrets.token_hex(TOKEN_BYTES), secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(self._key(make=True)).encrypt(nonce, value.encode(), _bound_to(member, name, token))
        write_file(self._folder / token, MAGIC + nonce + sealed, mode=0o600)
        return token

    def open(self, member: str, name: str, token: str) -> str:
        """The value that was sealed. Raises VaultDamaged."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            content = (self._folder / token).read_bytes()
            key = self._key(make=False)
        except FileNotFoundError:
            raise VaultDamaged(f"the secret {name} of {member} is not on the market's disk") from None
        nonce, sealed = content[len(MAGIC) :][:NONCE_BYTES], content[len(MAGIC) + NONCE_BYTES :]
        if not content.startswith(MAGIC) or len(nonce) < NONCE_BYTES:
            raise VaultDamaged(f"the file of the secret {name} of {member} is damaged")
        try:
            return AESGCM(key).decrypt(nonce, sealed, _bound_to(member, name, token)).decode()
        except InvalidTag:
            raise VaultDamaged(f"the secret {name} of {member} does not open with this market's key") from None

    def forget(self, token: str) -> None:
        """Remove one file; the token counts no more."""
        (self._folder / token).unlink(missing_ok=True)

    def keep_only(self, tokens: Collection[str]) -> None:
        """Remove every file that is none of these."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in tokens:
                path.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _key(self, *, make: bool) -> bytes:
        try:
            key = bytes.fromhex(self._key_file.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            if not make:
                raise
            key = secrets.token_bytes(KEY_BYTES)
            write_file(self._key_file, key.hex().encode() + b"\n", mode=0o600)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise VaultDamaged(f"{self._key_file} does not hold a key of {KEY_BYTES} bytes")
        return key


def _bound_to(member: str, name: str, token: str) -> bytes:
    return "\0".join((member, name, token)).encode()
