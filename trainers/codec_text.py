"""The text that names a codec, such as `int8` or `dct:64+top_k:8/4096+fp16`. Pure, and without numpy: forms read it.

[transform +] [selection +] values
transform   dct[:EDGE]                     orthonormal DCT-II of blocks of at most EDGE (64) in each dimension
selection   top_k:K/CHUNK | prune:FRACTION the K largest of each CHUNK elements | all but the smallest FRACTION
values      identity | fp16 | bf16 | int8 | fp4 | int2 | sign1
"""

import difflib
import re
from dataclasses import dataclass
from fractions import Fraction

VALUE_CODECS = ("identity", "fp16", "bf16", "int8", "fp4", "int2", "sign1")
COARSE = frozenset({"int2", "sign1"})
STAGES = (*VALUE_CODECS, "top_k", "prune", "dct")
EDGE = 64
MOST_EDGE = 1024
MOST_CHUNK = 1 << 24

_TOP_K = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})")
_FRACTION = re.compile(r"0?\.[0-9]{1,9}|0")
_EDGE = re.compile(r"[1-9][0-9]{0,4}")


class CodecTextError(ValueError):
    """A text that names no codec; the message says which part and why, `remedy` what to write instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message, self.remedy = message, remedy


@dataclass(frozen=True, slots=True)
class TopK:
    """The `kept` elements of largest magnitude of each `chunk` consecutive ones."""

    kept: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Prune:
    """All elements but the `fraction` of smallest magnitude, over the whole vector."""

    fraction: Fraction


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """The stages of a codec in the order in which an encoder runs them."""

    values: str
    selection: TopK | Prune | None = None
    edge: int | None = None

    @property
    def dense(self) -> bool:
        """Every element travels as itself, so that a slice of the vector can be encoded alone."""
        return self.selection is None and self.edge is None

    @property
    def lossless(self) -> bool:
        """What is decoded is to the bit what was encoded."""
        return self.values == "identity" and self.dense

    @property
    def coarse(self) -> bool:
        """A mean of what it sends has values between its own, most of which are lost when that is encoded once more."""
        return self.values in COARSE

    @property
    def text(self) -> str:
        """The one spelling of this codec that everybody uses."""
        stages = [] if self.edge is None else [f"dct:{self.edge}"]
        if isinstance(self.selection, TopK):
            stages.append(f"top_k:{self.selection.kept}/{self.selection.chunk}")
        elif self.selection is not None:
            stages.append(f"prune:{_decimal(self.selection.fraction)}")
        return "+".join([*stages, self.values])


def parse_codec(text: str) -> CodecSpec:
    """From the text of a job. Raises CodecTextError."""
    *before, values = text.strip().split("+")
    edge: int | None = None
    selection: TopK | Prune | None = None
    for stage in before:
        name, colon, argument = stage.partition(":")
        if name == "dct" and edge is None and selection is None:
            edge = _edge(argument) if colon else EDGE
        elif name in {"top_k", "prune"} and selection is None:
            selection = _top_k(argument) if name == "top_k" else _prune(argument)
        elif name in STAGES:
            raise CodecTextError(f"{name!r} at a wrong place of {text!r}", "the order is dct, top_k or prune, values")
        else:
            raise CodecTextError(f"no codec {name!r}", _nearest(name))
    if values in VALUE_CODECS:
        return CodecSpec(values, selection, edge)
    name = values.partition(":")[0]
    if name in STAGES and name not in VALUE_CODECS:
        raise CodecTextError(f"{text!r} says not how values travel", f"add +fp16 or another of {_listed(VALUE_CODECS)}")
    if name in VALUE_CODECS:
        raise CodecTextError(f"{name} takes no argument", f"write {name}")
    raise CodecTextError(f"no codec {values!r}", _nearest(values))


def _edge(argument: str) -> int:
    if not _EDGE.fullmatch(argument) or int(argument) > MOST_EDGE:
        raise CodecTextError(f"dct:{argument} has no edge from 1 to {MOST_EDGE}", f"write dct:{EDGE}")
    return int(argument)


def _top_k(argument: str) -> TopK:
    found = _TOP_K.fullmatch(argument)
    if found is None:
        raise CodecTextError(f"top_k:{argument} is not top_k:K/CHUNK", "write top_k:64/4096")
    kept, chunk = int(found[1]), int(found[2])
    if chunk > MOST_CHUNK:
        raise CodecTextError(f"top_k:{argument} has chunks of more than {MOST_CHUNK}", "write top_k:64/4096")
    if kept > chunk:
        raise CodecTextError(f"top_k:{argument} keeps more than a chunk has", "write top_k:64/4096")
    return TopK(kept, chunk)


def _prune(argument: str) -> Prune:
    if not _FRACTION.fullmatch(argument):
        raise CodecTextError(
            f"prune:{argument} is no fraction from 0 to below 1", "write prune:0.9 to drop nine tenths"
        )
    return Prune(Fraction(argument))


def _decimal(fraction: Fraction) -> str:
    """Its digits, exactly: a fraction of a text has at most nine."""
    return f"0.{int(fraction * 10**9):09d}".rstrip("0").rstrip(".")


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, STAGES, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {_listed(STAGES)}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
