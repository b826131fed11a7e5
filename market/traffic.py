"""What a strategy sends, estimated before anything has trained: bytes per worker and round.

By the codecs' own sizes (trainers/codec_text.py), without headers and codebooks. N workers exchange a payload of B
bytes: gathered, each sends (N − 1) · B; by butterfly or star 2 · (N − 1) / N · B on average; in pairs B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trainers.codec_text import CodecSpec, TopK
from trainers.options import parse_codec, round_steps, strategy_options

VALUE_BITS: Final = {"identity": 32, "fp16": 16, "bf16": 16, "int8": 8, "fp4": 4, "int2": 2, "sign1": 1}
INDEX_BITS: Final = 12
EACH_STEP: Final = frozenset({"ddp", "demo", "distro"})
"""Strategies that exchange at every inner step; the others once a round."""


def sent_bytes_of_round(strategy: Mapping[str, Any], parameters: float, workers: int) -> int:
    """What each of `workers` sends in one round of a model of so many parameters."""
    options = strategy_options(strategy)
    bits = bits_per_element(parse_codec(options["codec"]))
    if "chunk" in options:
        bits = (bits + INDEX_BITS) * int(options["top_k"]) / int(options["chunk"]) ** 2
    if "slow_codec" in options:
        bits += bits_per_element(parse_codec(options["slow_codec"]))
    payload = parameters * bits / 8 / int(options.get("fragments", 1))
    exchanges = round_steps(options) if options["name"] in EACH_STEP else 1
    return round(payload * exchanges * _copies(options, workers))


def bits_per_element(codec: CodecSpec) -> float:
    """Bits that a codec spends on an element, indices of selected ones included."""
    bits = float(VALUE_BITS[codec.values])
    if isinstance(codec.selection, TopK):
        return (bits + INDEX_BITS) * codec.selection.kept / codec.selection.chunk
    if codec.selection is not None:
        return bits * float(1 - codec.selection.fraction) + 1  # one bit an element says which ones are kept
    return bits


def _copies(options: Mapping[str, Any], workers: int) -> float:
    if workers < 2:
        return 0.0
    if options["name"] == "noloco":
        return 1.0
    gathered = options["topology"] == "gather" or options.get("merge", "mean") != "mean" or "chunk" in options
    if gathered or not parse_codec(options["codec"]).dense:
        return float(workers - 1)
    return 2 * (workers - 1) / workers
