"""Codecs: how a contribution becomes bytes. A new value codec is a file here, a line below and a name in `codec_text`."""

from collections.abc import Mapping
from types import MappingProxyType

from trainers.codec_text import CodecTextError, parse_codec
from trainers.codecs.base import BadPayload, Codec, Encoded, Payload, Values, Vector
from trainers.codecs.floats import Bf16, Fp16, Identity
from trainers.codecs.fp4 import Fp4
from trainers.codecs.int2 import Int2
from trainers.codecs.int8 import Int8
from trainers.codecs.sign1 import Sign1
from trainers.codecs.staged import Staged
from trainers.layout import Layout

__all__ = ["VALUES", "BadPayload", "Codec", "CodecTextError", "Encoded", "Payload", "Vector", "codec"]

VALUES: Mapping[str, Values] = MappingProxyType(
    {
        "identity": Identity(),
        "fp16": Fp16(),
        "bf16": Bf16(),
        "int8": Int8(),
        "fp4": Fp4(),
        "int2": Int2(),
        "sign1": Sign1(),
    }
)


def codec(text: str, layout: Layout | None = None) -> Codec:
    """The codec of a text such as `dct:64+top_k:8/4096+fp16`, for vectors of that layout. Raises CodecTextError."""
    spec = parse_codec(text)
    return Staged(spec, VALUES[spec.values], layout)
