"""Codecs by name: how a contribution becomes bytes. A new one is a file here and a line below."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from trainers.codecs.base import BadPayload, Codec, Encoded, Vector
from trainers.codecs.identity import Identity
from trainers.codecs.int8 import Int8

__all__ = ["CODECS", "BadPayload", "Codec", "Encoded", "Vector", "codec"]

CODECS: Mapping[str, Codec] = MappingProxyType({made.name: made for made in (Identity(), Int8())})


def codec(name: str) -> Codec:
    """The codec of that name. Raises LookupError naming the nearest one."""
    if name not in CODECS:
        near = difflib.get_close_matches(name, CODECS, n=1) or sorted(CODECS)
        raise LookupError(f"no codec {name!r}; did you mean {' or '.join(near)}?")
    return CODECS[name]
