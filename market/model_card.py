"""A model card in the form of Hugging Face's: a YAML head and sections, with what the provenance says and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.units import format_duration, format_usd

Json = Mapping[str, Any]


def model_card(bundle: Json, statements: Sequence[Json]) -> str:
    """Markdown. What nobody measured or said (a licence, an intended use) is left for the author, and said to be missing."""
    body = bundle["body"]
    head = ["---", "tags:", "- torg", "- distributed-training", "---", "", f"# {body['job']}", ""]
    if not statements:
        return "\n".join([*head, "No checkpoint of this job is durable yet.", ""])
    definition = statements[-1]["predicate"]["buildDefinition"]
    parts = [
        *head,
        *_model(body, statements),
        *_section("Training data", _sources(definition)),
        *_section("Training procedure", _procedure(definition["externalParameters"], definition["internalParameters"])),
        *_section("Evaluation", _evaluation(statements)),
        *_section("Compute", _compute(body, statements)),
        *_section("Provenance", _provenance(body, statements)),
    ]
    return "\n".join(parts)


def _model(body: Json, statements: Sequence[Json]) -> list[str]:
    last = statements[-1]
    rounds = last["predicate"]["buildDefinition"]["internalParameters"]["rounds"]["last"]
    told = f"The checkpoint of round {rounds}, trained in {len(statements)} segments on the market `{body['market']}`."
    rows = [(one["name"], f"`{one['digest']['sha256']}`") for one in last["subject"]]
    return [told, "", *_table(("Subject", "SHA-256"), rows), "", "Licence, intended use and limits: not stated by whoever trained it.", ""]


def _sources(definition: Json) -> list[str]:
    rows = [
        (one["name"], _plain(one["annotations"]["label"]), f"`{one['digest']['sha256']}`" if "digest" in one else "no digest")
        for one in definition["resolvedDependencies"]
        if one["name"] != "parent"
    ]
    return _table(("Input", "Label", "SHA-256"), rows)


def _procedure(asked: Json, inside: Json) -> list[str]:
    shown = {name: asked[name] for name in ("options", "strategy", "steps", "rounds", "order_seed", "precision", "train") if name in asked}
    rows = [(name, f"`{json.dumps(value, ensure_ascii=False, sort_keys=True)}`") for name, value in shown.items()]
    record = inside["committed"]["spec"][0]
    return [f"Committed in record {record} of the market's log, before any work.", "", *_table(("Setting", "Value"), rows)]


def _evaluation(statements: Sequence[Json]) -> list[str]:
    found = [row for one in statements for row in one["predicate"]["runDetails"]["torg_metrics"] if "held_out_loss" in row]
    if not found:
        return ["No held-out data were evaluated."]
    names = sorted({name for row in found for name in row["held_out"]})
    shown = found if len(found) <= 10 else [found[0], *found[len(found) // 9 : -1 : max(1, len(found) // 9)], found[-1]]
    rows = [(str(row["round"]), f"{row['held_out_loss']:.6g}", *(f"{row['held_out'][name]:.6g}" if name in row["held_out"] else "" for name in names)) for row in shown]
    return _table(("Round", "Held-out loss", *names), rows)


def _compute(body: Json, statements: Sequence[Json]) -> list[str]:
    machines: dict[tuple[str, str], list[int]] = {}
    for one in statements:
        for work in one["predicate"]["runDetails"]["torg_work"]:
            sums = machines.setdefault((work["provider"], f"{work['gpus']} × {work['gpu']}"), [0, 0, 0])
            for at, name in enumerate(("steps", "tokens", "trained_ms")):
                sums[at] += work[name]
    rows = [(provider, gpu, f"{steps:,}", f"{tokens:,}", format_duration(ms)) for (provider, gpu), (steps, tokens, ms) in sorted(machines.items())]
    billed = f"Billed: {format_usd(body['totals']['billed_nanos'])} USD."
    return [*_table(("Provider", "Machine", "Steps", "Tokens", "Trained"), rows), "", billed]


def _provenance(body: Json, statements: Sequence[Json]) -> list[str]:
    head = body["head"]
    return [
        (f"{len(statements)} signed in-toto statements, proven in the log of {head['size']} records with the root `{head['root']}`, "
        f"signed by the key `{head['public_key']}`."),
        "",
        f"`torg provenance {body['job']} -o bundle.json && torg verify bundle.json` checks them.",
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
