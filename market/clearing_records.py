"""A clearing as the journal keeps it, and the operator's rules: how seats are priced, and who is due when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Final

from market.checking import invalid, is_int
from market.clearing import Clearing, Match, Unmatched
from market.commands import SetDueRule, SetPriceRule
from market.outcomes import Answer, Json, Refusal
from market.price_rules import PRICE_RULES, ClassPrice
from market.turn import Turn
from market.worth import MOST_DUE_MS, MOST_PATIENCE, DueRule
from storage.units import MS_PER_HOUR

_CLASS_FIELDS: Final = tuple(field.name for field in fields(ClassPrice))


def set_price_rule(turn: Turn, command: SetPriceRule) -> Answer | Refusal:
    """Price seats by another rule from now on; leases that run keep their prices."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if command.rule not in PRICE_RULES:
        return invalid("rule", command.rule, f"one of {', '.join(PRICE_RULES)}")
    changed = turn.state.price_rule != command.rule
    if changed:
        turn.emit("price_rule_set", {"rule": command.rule, "by": command.by})
    return Answer({"price_rule": command.rule, "means": PRICE_RULES[command.rule]}, created=changed)


def set_due_rule(turn: Turn, command: SetDueRule) -> Answer | Refusal:
    """Let bids be due sooner, later or never from now on; whoever waits is judged by it at the next clearing."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if command.patience is not None and not is_int(command.patience, 0, MOST_PATIENCE):
        return invalid("patience", command.patience, f"a whole number from 0 to {MOST_PATIENCE}, or null for never")
    if not is_int(command.most_ms, MS_PER_HOUR, MOST_DUE_MS):
        return invalid("most_ms", command.most_ms, f"milliseconds from {MS_PER_HOUR} (an hour) to {MOST_DUE_MS} (a year)")
    rule = DueRule(command.patience, command.most_ms)
    changed = turn.state.due_rule != rule
    if changed:
        turn.emit("due_rule_set", {**asdict(rule), "by": command.by})
    return Answer({"due_rule": asdict(rule)}, created=changed)


def seats_view(match: Match) -> list[Json]:
    """One line for each offer of the match, at one price each."""
    rows: dict[str, Json] = {}
    for offer, price, ask in zip(match.offers, match.prices_nanos_per_gpu_hour, match.asks, strict=True):
        row = rows.setdefault(
            offer,
            {"job": match.job, "offer": offer, "gpus": 0, "price_nanos_per_gpu_hour": price, "ask_nanos_per_gpu_hour": ask},
        )
        row["gpus"] += match.gpus
    return list(rows.values())


def clearing_view(number: int, clearing: Clearing) -> Json:
    """What a clearing was made of and came to, without who got what."""
    inputs = clearing.inputs
    return {
        "number": number,
        "snapshot_ms": None if inputs is None else inputs.at_ms,
        "position": None if inputs is None else inputs.position,
        "suspect": [] if inputs is None else list(inputs.suspect),
        "jobs": None if inputs is None or inputs.jobs is None else list(inputs.jobs),
        "snapshot": None if inputs is None else inputs.digest,
        "bids": clearing.bids,
        "offers": clearing.offers,
        "algorithm": clearing.algorithm,
        "effort": clearing.effort,
        "looks": clearing.looks,
        "price_rule": clearing.price_rule,
        "welfare_nanos": clearing.welfare_nanos,
        "forgone_nanos": clearing.forgone_nanos,
        "waits": clearing.waits,
        "kept_for": clearing.kept_for,
        "classes": [{name: getattr(one, name) for name in _CLASS_FIELDS} for one in clearing.classes],
    }


def unmatched_view(one: Unmatched) -> Json:
    """Why somebody got nothing, as the journal keeps it."""
    return {
        "job": one.job,
        "reason": str(one.reason),
        "detail": one.detail,
        "removed": [{"reason": str(removed.reason), "gpus": removed.gpus} for removed in one.removed],
        "relaxations": list(one.relaxations),
    }


def kinds(relaxations: Iterable[str]) -> list[str]:
    """Which fields the changes that would help are of."""
    return [text.split(" ")[0] for text in relaxations]
