"""One way to write a JSON value as bytes, so that a digest of it means something.

Canonical form: keys sorted by code point, separators `,` and `:` without blanks, UTF-8 without escapes for
non-ASCII characters, no NaN and no infinities. Integers stay integers (`1` and `1.0` are different values).
"""

import hashlib
import json
import json.encoder
from collections.abc import Callable
from typing import Any, Final


class NotCanonical(ValueError):
    """The bytes are not JSON that this house would have written (duplicate key, NaN, broken UTF-8, …)."""


def _encoder() -> Callable[[object], str]:
    """`json.JSONEncoder.encode`, whose C part is made here once instead of for every value."""
    plain = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    chunks = make(None, plain.default, json.encoder.encode_basestring, None, ":", ",", True, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode: Final = _encoder()


def canonical_bytes(value: object) -> bytes:
    """The canonical JSON of `value`; raises NotCanonical for NaN, infinities and types that JSON does not have."""
    try:
        return _encode(value).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise NotCanonical(f"this value has no canonical JSON: {error}") from error


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON, lower-case hex."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def parse_json(data: bytes) -> Any:
    """Parse strictly: a key that appears twice or a NaN raises NotCanonical instead of silently losing a value."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NotCanonical(f"not JSON: {error}") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise NotCanonical(f"the key {twin!r} appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise NotCanonical(f"{name} is not a JSON number")
