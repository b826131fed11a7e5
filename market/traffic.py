"""What a strategy sends, estimated before anything has trained: bytes per worker and round.

By the codecs' own sizes (trainers/codec_text.py), without headers and codebooks. N workers exchange a payload of B
bytes: gathered, each sends (N − 1) · B; by butterfly or star 2 · (N − 1) / N · B on average; in pairs B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from trainers.codec_text import CodecSpec, TopK
from trainers.options import MAX_INNER_STEPS, parse_codec, round_steps, strategy_options, wanted_topology

FRAMING: Final = 1.04
"""Bytes on the wire for each byte of payload."""
EXCHANGE_SHARE: Final = 0.1
"""Of a job's time: less is called little."""
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


def needed_bits_per_second(strategy: Mapping[str, Any], sent_bytes: float, step_s: float) -> int | None:
    """The speed of a worker's link, in both directions, from which on exchanges take at most EXCHANGE_SHARE of the time.

    `sent_bytes`: of a worker and round; `step_s`: of an inner step. None where nothing is sent.
    """
    if not sent_bytes:
        return None
    options = strategy_options(strategy)
    steps = min(round_steps(options), int(options.get("inner_steps_later", MAX_INNER_STEPS)))  # the shortest rounds need most
    hidden = int(options.get("overlap_steps", 0))
    allowed_s = step_s * (steps * EXCHANGE_SHARE / (1 - EXCHANGE_SHARE) + min(steps, hidden))
    return math.ceil(FRAMING * sent_bytes * 8 / allowed_s)


def format_speed(bits_per_second: float) -> str:
    """For people, never less than it is: `340 kbit/s`, `4.2 Mbit/s`, `1.3 Gbit/s`."""
    thousand = 1 if bits_per_second < 1e6 else 2 if bits_per_second < 1e9 else 3
    value = bits_per_second / 1000**thousand
    shown = math.ceil(round(value * 10, 6)) / 10 if value < 10 else math.ceil(value)
    return f"{shown:g} {('kbit', 'Mbit', 'Gbit')[thousand - 1]}/s"


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
    gathered = wanted_topology(options) == "gather" or options.get("merge", "mean") != "mean" or "chunk" in options
    if gathered or not parse_codec(options["codec"]).dense:
        return float(workers - 1)
    return 2 * (workers - 1) / workers
