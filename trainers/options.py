"""Every strategy's options: kinds, defaults, ranges, what they mean. No numpy, no torch: forms and commands read this.

The same table makes the job file's form, the exchange's own check of a job and the strategies themselves, so that
all three agree on what may be written. What the options do is in docs/PROTOCOLS.md.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from trainers.codec_text import CodecSpec, CodecTextError
from trainers.codec_text import parse_codec as parse_codec_text

Value: TypeAlias = str | int | float | bool | None
Kind: TypeAlias = Literal["int", "float", "bool", "text", "codec"]

DEFAULT_STRATEGY: Final = "diloco"
INNER_STATE_AGREES: Final = ("ddp",)
"""Strategies whose members' inner optimisers are all in one state, which is a part of what they agree on."""
MAX_INNER_STEPS: Final = 1_000_000
MOST_OVERLAP_STEPS: Final = 5
"""By default; as far as arXiv 2501.18512 goes without loss."""
ABOVE_ZERO: Final = 1e-9
BELOW_ONE: Final = 1 - 1e-9


class OptionError(ValueError):
    """An option that cannot be taken: `field` as the job file calls it, the value found there, and what to do."""

    def __init__(self, field: str, value: object, message: str, remedy: str = "") -> None:
        self.field, self.value, self.message, self.remedy = field, value, message, remedy
        super().__init__(f"{field}: {value!r} {message}" + (f"; {remedy}" if remedy else ""))


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `low` and `high` are allowed themselves; None as a value is allowed when it is the default."""

    kind: Kind
    default: Value
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def _inner_steps(meaning: str = "inner steps between two exchanges") -> Option:
    return Option("int", 30, meaning, 1, MAX_INNER_STEPS)


def _codec(default: str) -> Option:
    return Option("codec", default, "how contributions become bytes")


def _topology(*choices: str) -> Option:
    return Option("text", "auto", "the way that contributions take between workers", choices=("auto", *choices))


_ADAPT = Option(
    "text", "none", "`steps`: fewer inner steps where more workers are, tokens stay", choices=("none", "steps")
)
_WEIGHTED = Option("bool", False, "contributions count by the tokens behind them")
_FEEDBACK = Option(
    "bool", None, "what the codec lost is sent next time; by default when the codec sends only a selection"
)
_KEEP = Option("bool", False, "what the codec left out stays in the worker's own parameters, which it trains on from")
_SCHEDULE: Final = MappingProxyType(
    {
        "inner_steps_later": Option(
            "int", None, "inner steps between two exchanges later in the job; with later_from", 1, MAX_INNER_STEPS
        ),
        "later_from": Option(
            "float", None, "share of the job's steps after which a round has inner_steps_later", ABOVE_ZERO, BELOW_ONE
        ),
    }
)
"""Of strategies that exchange once a round, none of it hidden behind the next one's steps."""
SAID_ONLY_WHERE_USED: Final = ("keep_unsent", *_SCHEDULE)
"""Not among the options of jobs that do without them, which stay to the byte what they were before these came."""
_MERGE = Option("text", "mean", "how contributions become one", choices=("mean", "trimmed_mean", "centered_clip"))
_REDUCED = _topology("gather", "butterfly", "star")
_GATHERED = _topology("gather")


def _dense(codec: str, **own: Option) -> Mapping[str, Option]:
    """Options of a strategy that needs no more than a mean of dense vectors."""
    common = {"inner_steps": _inner_steps(), "codec": _codec(codec), "topology": _REDUCED, "adapt": _ADAPT}
    return MappingProxyType(common | {"weighted": _WEIGHTED, "error_feedback": _FEEDBACK} | own)


def _outer(rate: float) -> dict[str, Option]:
    """Options of the outer optimiser, SGD with Nesterov momentum."""
    return {
        "outer_lr": Option("float", rate, "η, rate of the outer optimiser", ABOVE_ZERO, 100),
        "outer_momentum": Option("float", 0.9, "μ, Nesterov momentum of the outer optimiser", 0, BELOW_ONE),
    }


def _compressed_momentum(codec: str, top_k: int) -> Mapping[str, Option]:
    """Options of DeMo and DisTrO."""
    return MappingProxyType(
        {
            "inner_steps": _inner_steps("steps between two commits; gradients are exchanged at each step"),
            "codec": Option("codec", codec, "how the selected coefficients travel: a value codec alone"),
            "topology": _GATHERED,
            "adapt": _ADAPT,
            "weighted": _WEIGHTED,
            "error_feedback": replace(_FEEDBACK, default=True, meaning="what was not sent stays in the momentum"),
            "decay": Option("float", 0.999, "β, decay of the momentum that was not sent yet", 0, 1),
            "top_k": Option("int", top_k, "coefficients sent of each chunk² elements", 1, 4096),
            "chunk": Option("int", 64, "edge of the blocks that are transformed", 2, 64),
            "lr": Option("float", None, "rate of the sign step; by default the inner optimiser's", ABOVE_ZERO, 100),
            "weight_decay": Option("float", 0.0, "shrinks parameters by lr · weight_decay a step", 0, 10),
        }
    )


STRATEGIES: Final[Mapping[str, Mapping[str, Option]]] = MappingProxyType(
    {
        "ddp": _dense("identity", inner_steps=_inner_steps("steps between two commits; gradients go at each step")),
        "local_sgd": _dense("int8", merge=_MERGE, keep_unsent=_KEEP, **_SCHEDULE),
        "fedavg": _dense(
            "int8", merge=_MERGE, keep_unsent=_KEEP, weighted=replace(_WEIGHTED, default=True), **_SCHEDULE
        ),
        "diloco": _dense("int8", merge=_MERGE, keep_unsent=_KEEP, **_outer(0.7), **_SCHEDULE),
        "streaming_diloco": _dense(
            "fp4",
            merge=_MERGE,
            **_outer(0.4),
            fragments=Option("int", 4, "P, parts of the model, one of which goes each round", 1, 1024),
            overlap_steps=Option(
                "int", None, "τ, steps trained while an exchange is under way; by default half a round, at most 5", 0, 1000
            ),
            mixing=Option(
                "float", 0.5, "α, share of a worker's own fragment when the merged one arrives", 0, BELOW_ONE
            ),
        ),
        "noloco": _dense(
            "int8",
            topology=_topology("pairs"),
            alpha=Option("float", 0.5, "α, momentum of the outer step", 0, BELOW_ONE),
            beta=Option("float", 0.7, "β, rate of the pair's mean progress; above alpha", ABOVE_ZERO, 10),
            gamma=Option("float", 0.7, "γ, pull towards the partner's parameters", 0.5, 1.5),
            slow_codec=Option("codec", "fp16", "how slow weights travel; fine, for they must agree"),
            **_SCHEDULE,
        ),
        "demo": _compressed_momentum("fp16", top_k=32),
        "distro": _compressed_momentum("sign1", top_k=32),
        "sparseloco": MappingProxyType(
            {
                **_dense("top_k:64/4096+int2", topology=_GATHERED),
                "error_feedback": replace(_FEEDBACK, default=True),
                "decay": Option("float", 0.95, "β, decay of what was not sent yet", 0, 1),
                "outer_lr": Option("float", 1.0, "α, rate of the outer step", ABOVE_ZERO, 100),
                "average_over": Option(
                    "text",
                    "workers",
                    "an element's mean over all workers or its senders",
                    choices=("workers", "senders"),
                ),
                **_SCHEDULE,
            }
        ),
    }
)


def strategy_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a job gives, `name` among them, with the defaults filled in: `name` first, then as the table.
    Those of `SAID_ONLY_WHERE_USED` are there only where they are.

    Raises OptionError for an unknown strategy or option, a wrong kind, a value out of range, options that do not fit
    together.
    """
    name = given.get("name", DEFAULT_STRATEGY)
    if not isinstance(name, str) or name not in STRATEGIES:
        raise OptionError("strategy.name", name, "is no known strategy", _nearest(str(name), STRATEGIES))
    table = STRATEGIES[name]
    for option in given:
        if option != "name" and option not in table:
            remedy = _nearest(str(option), table)
            raise OptionError(f"strategy.{option}", given[option], f"is in a field that {name} does not have", remedy)
    chosen = {key: _checked(f"strategy.{key}", given.get(key, option.default), option) for key, option in table.items()}
    if chosen["error_feedback"] is None:
        chosen["error_feedback"] = parse_codec(str(chosen["codec"])).selection is not None
    options: dict[str, Any] = {"name": name, **chosen}
    if options.get("overlap_steps", 0) is None:
        options["overlap_steps"] = min(MOST_OVERLAP_STEPS, options["inner_steps"] // options["fragments"] // 2)
    options = {key: value for key, value in options.items() if value or key not in SAID_ONLY_WHERE_USED}
    _refuse_contradictions(options)
    return options


def round_steps(strategy: Mapping[str, Any]) -> int:
    """Inner steps of a job's first round, from options with their defaults filled in or not; see `round_lengths`."""
    options = strategy_options(strategy)
    return int(options["inner_steps"]) // int(options.get("fragments", 1))


def wanted_topology(options: Mapping[str, Any]) -> str:
    """The way of exchanging that options ask for: where the choice is left to us, whole contributions for a codec that is
    too coarse for slices of the mean to be encoded once more.
    """
    asked, codec = str(options.get("topology", "auto")), str(options.get("codec", "identity"))
    return "gather" if asked == "auto" and parse_codec(codec).coarse else asked


def parse_codec(text: str) -> CodecSpec:
    """What a codec text says. Raises OptionError."""
    return _parsed("strategy.codec", text)


def _parsed(field: str, text: str) -> CodecSpec:
    try:
        return parse_codec_text(text)
    except CodecTextError as error:
        raise OptionError(field, text, error.message, error.remedy) from None


def _checked(field: str, value: Any, option: Option) -> Value:
    """The value as its kind, or OptionError."""
    if value is None and option.default is None:
        return None
    match option.kind:
        case "bool":
            if isinstance(value, bool):
                return value
            raise OptionError(field, value, "is neither true nor false", "write true or false")
        case "int" | "float":
            return _checked_number(field, value, option)
        case "text":
            if isinstance(value, str) and value in option.choices:
                return value
            raise OptionError(field, value, "is not known here", _nearest(str(value), option.choices))
        case "codec":
            if isinstance(value, str):
                _parsed(field, value)
                return value
            raise OptionError(field, value, "is no codec", "such as int8 or top_k:64/4096+int2")


def _checked_number(field: str, value: Any, option: Option) -> int | float:
    kinds = (int,) if option.kind == "int" else (int, float)
    allowed = f"allowed: {_range(option)}"
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise OptionError(field, value, "is no whole number" if option.kind == "int" else "is no number", allowed)
    if (option.low is not None and value < option.low) or (option.high is not None and value > option.high):
        raise OptionError(field, value, "is out of range", allowed)
    return value if option.kind == "int" else float(value)


def _range(option: Option) -> str:
    low = "above 0" if option.low == ABOVE_ZERO else f"{option.low:g}"
    high = "below 1" if option.high == BELOW_ONE else f"{option.high:g}"
    return f"{low} to {high}"


def _refuse_contradictions(options: Mapping[str, Any]) -> None:
    """Options that are good by themselves and bad together."""
    merge, topology, codec = options.get("merge", "mean"), options["topology"], parse_codec(options["codec"])
    if merge != "mean" and topology in ("butterfly", "star"):
        raise OptionError("strategy.topology", topology, f"gives only means, not {merge}", "write auto or gather")
    if topology == "butterfly" and not codec.dense:
        raise OptionError("strategy.topology", topology, "cuts what this codec cannot cut", "write auto or gather")
    if "beta" in options and options["beta"] <= options["alpha"]:
        raise OptionError(
            "strategy.beta", options["beta"], "is not above alpha", "the published values are 0.7 and 0.5"
        )
    if ("inner_steps_later" in options) != ("later_from" in options):
        said, missing = ("inner_steps_later", "later_from") if "inner_steps_later" in options else ("later_from", "inner_steps_later")
        raise OptionError(
            f"strategy.{said}", options[said], f"says nothing without {missing}",
            "such as inner_steps_later: 7 with later_from: 0.55",
        )  # fmt: skip
    if "fragments" in options:
        _refuse_fragments(options)
    if "chunk" in options:
        if not codec.dense:
            raise OptionError("strategy.codec", options["codec"], "selects twice", "name a value codec, such as fp16")
        if options["top_k"] > options["chunk"] ** 2:
            most = f"allowed: 1 to {options['chunk'] ** 2}"
            raise OptionError("strategy.top_k", options["top_k"], "is more than a block has", most)
    if options["name"] == "sparseloco" and codec.dense and options["average_over"] == "senders":
        raise OptionError(
            "strategy.average_over", "senders", "means nothing for a codec that sends all", "write workers"
        )


def _refuse_fragments(options: Mapping[str, Any]) -> None:
    """A fragment has a round of its own, and an exchange ends before the next begins."""
    inner, fragments, overlap = options["inner_steps"], options["fragments"], options["overlap_steps"]
    if fragments > inner:
        raise OptionError("strategy.fragments", fragments, "are more than inner_steps", f"allowed: 1 to {inner}")
    if overlap >= inner // fragments and overlap > 0:
        most = f"allowed: 0 to {inner // fragments - 1} with {inner // fragments} steps a round"
        raise OptionError("strategy.overlap_steps", overlap, "is as long as a round", most)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def keeps_inner_state(checkpoint: Mapping[str, Any], strategy: Mapping[str, Any]) -> bool:
    """Whether bases of a job with these sections take the inner optimiser's state along.

    What `inner_state` says, else: only with a strategy that would begin again from nothing after a restore.
    """
    said = checkpoint.get("inner_state")
    return strategy["name"] in INNER_STATE_AGREES if said is None else bool(said)
