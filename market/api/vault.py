"""Members' secrets on the market's disk: sealed with a key of the market's own, one file each, outside the journal.

A file is `torgsec1`, a nonce of 12 bytes, and AES-256-GCM of the value, with `member NUL name NUL token` as associated data: a
file that is put in another's place does not open. Which files count, the journal says by their tokens; a file that it does
not name is of a call that was cut off, or was replaced, and goes when the market opens.

A new key is put before the old one (`rekey`); what is read opens with either, what is written takes the first. When all
files are sealed with the new one, the old one goes. Cut off anywhere, every secret opens, and the next call goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from market.homes import sync_folder, write_file

MAGIC = b"torgsec1"
NONCE_BYTES = 12
KEY_BYTES = 32
TOKEN_BYTES = 16


class VaultDamaged(Exception):
    """A secret's file is gone or does not open with this market's key; the message names neither value nor key."""


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """How many secrets the new key seals, and `MEMBER NAME` of those that no key opens, which stay as they are."""

    sealed: int
    damaged: tuple[str, ...]


class Vault:
    """`folder` holds the files, `key_file` the key (both closed to other accounts); they are made when first needed."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        self._folder, self._key_file = folder, key_file

    def seal(self, member: str, name: str, value: str) -> str:
        """Write a value durably; the token by which it is found again. Raises OSError, VaultDamaged."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        token = secrets.token_hex(TOKEN_BYTES)
        self._write(token, _sealed(self._keys() or self._renewed(), value, _bound_to(member, name, token)))
        return token

    def open(self, member: str, name: str, token: str) -> str:
        """The value that was sealed. Raises VaultDamaged."""
        keys = self._keys()
        while True:
            value = self._opened(keys, member, name, token)
            if value is not None:
                return value
            now = self._keys()
            if now == keys:
                raise VaultDamaged(f"the secret {name} of {member} does not open with this market's key")
            keys = now  # it was renewed between the two

    def rekey(self, named: Iterable[tuple[str, str, str]]) -> Rekeyed:
        """Seal all of `named`, (member, name, token), with a new key, and forget the keys before. Nobody may `seal`
        meanwhile; everybody may `open`. Raises OSError, VaultDamaged: then the old keys are kept, too.
        """
        self._renewed()
        return self.finish_rekey(named)

    def finish_rekey(self, named: Iterable[tuple[str, str, str]]) -> Rekeyed:
        """What was cut off of `rekey`; nothing where there is one key."""
        for left in self._key_file.parent.glob(f".{self._key_file.name}.*"):  # by a kill in the middle of writing it
            left.unlink(missing_ok=True)
        keys = self._keys()
        if len(keys) < 2:
            return Rekeyed(0, ())
        sealed, damaged = 0, []
        for member, name, token in named:
            try:
                value = self._opened(keys, member, name, token)
            except VaultDamaged:
                value = None
            if value is None:
                damaged.append(f"{member} {name}")
            elif self._opened(keys[:1], member, name, token) is None:
                self._write(token, _sealed(keys, value, _bound_to(member, name, token)))
            sealed += value is not None
        self._keep(keys[:1])
        return Rekeyed(sealed, tuple(damaged))

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

    def _opened(self, keys: list[bytes], member: str, name: str, token: str) -> str | None:
        """None when it opens with none of the keys."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            content = (self._folder / token).read_bytes()
        except FileNotFoundError:
            raise VaultDamaged(f"the secret {name} of {member} is not on the market's disk") from None
        nonce, sealed = content[len(MAGIC) :][:NONCE_BYTES], content[len(MAGIC) + NONCE_BYTES :]
        if not content.startswith(MAGIC) or len(nonce) < NONCE_BYTES:
            raise VaultDamaged(f"the file of the secret {name} of {member} is damaged")
        for key in keys:
            try:
                return AESGCM(key).decrypt(nonce, sealed, _bound_to(member, name, token)).decode()
            except InvalidTag:
                continue
        return None

    def _write(self, token: str, content: bytes) -> None:
        write_file(self._folder / token, content, mode=0o600)

    def _renewed(self) -> list[bytes]:
        """All keys, with a new one before the others, on the disk."""
        keys = [secrets.token_bytes(KEY_BYTES), *self._keys()]
        self._keep(keys)
        return keys

    def _keep(self, keys: list[bytes]) -> None:
        write_file(self._key_file, b"".join(key.hex().encode() + b"\n" for key in keys), mode=0o600)

    def _keys(self) -> list[bytes]:
        """The newest first; none where nothing was ever sealed. Raises VaultDamaged."""
        try:
            keys = [bytes.fromhex(line) for line in self._key_file.read_text(encoding="ascii").split()]
        except FileNotFoundError:
            return []
        except ValueError:
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise VaultDamaged(f"{self._key_file} does not hold a key of {KEY_BYTES} bytes")
        return keys


def _sealed(keys: list[bytes], value: str, bound_to: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    return MAGIC + nonce + AESGCM(keys[0]).encrypt(nonce, value.encode(), bound_to)


def _bound_to(member: str, name: str, token: str) -> bytes:
    return "\0".join((member, name, token)).encode()
