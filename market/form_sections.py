"""Sections of a job file that are options with defaults: `strategy`, `train`, `checkpoint`, `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from market.checking import (
    EVALUATE_DEFAULTS,
    MAX_ACCUMULATE,
    MAX_CLIP,
    MAX_EVERY_MS,
    MAX_EVERY_ROUNDS,
    MAX_PROCESSES,
)
from trainers.options import STRATEGIES, Option, OptionError, strategy_options


class StrictForm(BaseModel):
    """Unknown fields are refused, NaN and infinities are no numbers, texts are not read as numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


Form = TypeVar("Form", bound=StrictForm)
EveryRounds = Annotated[int, Field(ge=1, le=MAX_EVERY_ROUNDS)]


def option_refusal(error: OptionError) -> PydanticCustomError:
    """What `trainers.options` says is wrong, for `form_error` to tell with the option's own field and value."""
    said = {"text": error.message, "remedy": error.remedy, "field": error.field, "value": error.value}
    return PydanticCustomError("torg_option", "{text}", said)


def _strategy(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "torg",
            "{text}",
            {"text": "is not a mapping of options", "remedy": "such as {name: diloco, inner_steps: 30}"},
        )
    try:
        return strategy_options(value)
    except OptionError as error:
        raise option_refusal(error) from None


_JSON_KINDS: Final = {"int": "integer", "float": "number", "bool": "boolean", "text": "string", "codec": "string"}


def _option_schema(option: Option) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": _JSON_KINDS[option.kind],
        "default": option.default,
        "description": option.meaning,
    }
    bounds = {"minimum": option.low, "maximum": option.high}
    schema |= {name: bound for name, bound in bounds.items() if bound is not None}
    return schema | ({"enum": list(option.choices)} if option.choices else {})


def strategy_schema() -> dict[str, Any]:
    """The JSON schema of `strategy`: one object per strategy, told apart by `name`."""
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {"name": {"const": name}} | {key: _option_schema(one) for key, one in options.items()},
                "additionalProperties": False,
            }
            for name, options in STRATEGIES.items()
        ]
    }


StrategyOptions = Annotated[dict[str, Any], BeforeValidator(_strategy), WithJsonSchema(strategy_schema())]
"""Any strategy of trainers/options.py with its options; every default is filled in."""


class TrainForm(StrictForm):
    """How each worker's inner loop computes. `accumulate` micro-batches make a step; `processes` of one machine are one
    member; `clip` is the largest norm of a gradient, 0 for none."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: Annotated[int, Field(ge=1, le=MAX_ACCUMULATE)] = 1
    compile: bool = False
    activation_checkpointing: bool = False
    processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    clip: Annotated[float, Field(ge=0, le=MAX_CLIP)] = 1.0


class CheckpointForm(StrictForm):
    """What is made durable, and how much of it is kept. Between two bases only deltas are written; `inner_state` also
    keeps an inner optimiser's state: by default with ddp, which would begin again without moments after a restore."""

    every_rounds: EveryRounds = 1
    keep: EveryRounds = 3
    base_every_rounds: EveryRounds = 10
    inner_state: bool | None = None


class EvaluateForm(StrictForm):
    """How often the held-out loss is measured: by rounds, by the clock (at the first boundary so long after the last
    one began) or by both; by default after every round. The first round and the last always are."""

    every_rounds: EveryRounds | None = None
    every_seconds: Annotated[float, Field(ge=1, le=MAX_EVERY_MS // 1000)] | None = None

    def spec(self) -> dict[str, int]:
        """As the normalised spec has it: what is said, or the default; seconds in milliseconds."""
        said = {"every_rounds": self.every_rounds}
        said["every_ms"] = None if self.every_seconds is None else round(1000 * self.every_seconds)
        return {name: value for name, value in said.items() if value is not None} or dict(EVALUATE_DEFAULTS)
