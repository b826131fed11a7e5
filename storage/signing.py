"""Ed25519 signatures. A signing key is 32 raw bytes; public keys and signatures are lower-case hex.

Needs `cryptography`, which who only checks may lack.
"""

import binascii


class NoSignatures(Exception):
    """The package `cryptography` is missing, so signatures cannot be checked."""


def new_signing_key() -> bytes:
    """A new raw Ed25519 private key, 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(signing_key: bytes) -> str:
    """The public key that belongs to a raw Ed25519 private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw().hex()


def sign(signing_key: bytes, text: bytes) -> str:
    """The signature of these bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(signing_key).sign(text).hex()


def is_signed_by(public_key: str, text: bytes, signature: str) -> bool:
    """Whether this key signed just these bytes; False for what is no key or no signature. Raises NoSignatures."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise NoSignatures("the package `cryptography` is not installed here") from error
    try:
        Ed25519PublicKey.from_public_bytes(binascii.unhexlify(public_key)).verify(binascii.unhexlify(signature), text)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
