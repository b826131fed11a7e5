"""A picture of where a model comes from: data, code and spec, machines, segments, checkpoints. SVG, or a page around it; no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

MOST_SEGMENTS: Final = 12
"""So many are drawn: the first ones and the last ones, with a line for those between."""
MOST_MACHINES: Final = 3
WIDTH: Final = 1040
MACHINE_X, SEGMENT_X, CHECKPOINT_X = 24, 352, 736
MACHINE_W, SEGMENT_W, CHECKPOINT_W = 264, 320, 280
TOP, LINE, PAD, GAP = 24, 18, 12, 26
Json = Mapping[str, Any]

_STYLE: Final = """
svg { --ink: #1a1d21; --soft: #5d6673; --line: #aab2bd; --page: #fff; --data: #e3f0fb; --work: #fdf0da; --made: #e2f4e6; --machine: #eceef1;
  font: 13px system-ui, sans-serif; background: var(--page) }
@media (prefers-color-scheme: dark) { svg { --ink: #e8eaed; --soft: #9aa3ad; --line: #5a636e; --page: #16181c; --data: #1c2f42;
  --work: #3d3120; --made: #1f3a26;
  --machine: #262b33 } }
text { fill: var(--ink) } .soft { fill: var(--soft) } .name { font-weight: 600 }
rect { stroke: var(--line) } .data { fill: var(--data) } .work { fill: var(--work) } .made { fill: var(--made) } .machine { fill: var(--machine) }
path { stroke: var(--line); fill: none; stroke-width: 1.4 } .tip { fill: var(--line); stroke: none }
"""


class _Sheet:
    """SVG elements as they are drawn; coordinates are pixels, y downwards."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(self, x: int, y: int, width: int, kind: str, lines: Sequence[str]) -> int:
        """A box with its name in the first line; its height."""
        height = 2 * PAD + LINE * len(lines)
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>')
        for at, line in enumerate(lines):
            style = "name" if at == 0 else "soft"
            room = (width - 2 * PAD) // 7
            shown = line if len(line) <= room else line[: room - 1] + "…"
            self.parts.append(f'<text class="{style}" x="{x + PAD}" y="{y + PAD + 13 + at * LINE}">{escape(shown)}</text>')
        return height

    def across(self, from_x: int, from_y: int, to_x: int, to_y: int) -> None:
        """An arrow that leaves and arrives level."""
        middle = (from_x + to_x) // 2
        self._arrow(f"M{from_x} {from_y} C{middle} {from_y} {middle} {to_y} {to_x} {to_y}")

    def down(self, from_x: int, from_y: int, to_x: int, to_y: int) -> None:
        """An arrow that leaves and arrives upright."""
        middle = (from_y + to_y) // 2
        self._arrow(f"M{from_x} {from_y} C{from_x} {middle} {to_x} {middle} {to_x} {to_y}")

    def _arrow(self, curve: str) -> None:
        self.parts.append(f'<path d="{curve}" marker-end="url(#tip)"/>')

    def svg(self, height: int, title: str) -> str:
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        )
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", tip, *self.parts, "</svg>", ""])


def lineage_svg(job: str, statements: Sequence[Json]) -> str:
    """The picture of a job's statements (storage/segment_statements.py), the oldest on top."""
    sheet = _Sheet()
    if not statements:
        sheet.box(SEGMENT_X, TOP, SEGMENT_W, "work", [job, "no segment yet"])
        return sheet.svg(TOP + 90, f"Provenance of {job}")
    y = _sources(sheet, statements[0])
    left: tuple[int, int] | None = None  # where the arrow from the checkpoint before begins
    for shown in _shown(statements):
        if isinstance(shown, int):
            sheet.parts.append(f'<text class="soft" x="{SEGMENT_X + PAD}" y="{y + LINE}">… {shown} segments more …</text>')
            y += LINE + GAP
            continue
        height, made = _segment(sheet, shown, y)
        if left is not None:
            sheet.down(*left, SEGMENT_X + SEGMENT_W * 3 // 4, y)
        else:
            columns = ((MACHINE_X, MACHINE_W), (SEGMENT_X, SEGMENT_W), (CHECKPOINT_X, CHECKPOINT_W))
            for at, (x, width) in enumerate(columns, start=1):
                sheet.down(x + width // 2, TOP + 2 * PAD + 3 * LINE, SEGMENT_X + SEGMENT_W * at // 4, y)
        left, y = made, y + height + GAP
    return sheet.svg(y, f"Provenance of {job}: {len(statements)} segments")


def lineage_page(job: str, statements: Sequence[Json], market: str) -> str:
    """The picture on a page of its own."""
    style = "body { margin: 0; padding: 1.5rem; font: 15px system-ui, sans-serif; color-scheme: light dark } svg { max-width: 100%; height: auto }"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Provenance of {escape(job)}</title><style>{style}</style>\n'
        f"<h1>Provenance of {escape(job)}</h1><p>{len(statements)} segments, told by the market {escape(market)}. "
        f"Each digest stands in its signed log: <code>torg verify</code> proves it.</p>\n{lineage_svg(job, statements)}</html>\n"
    )


def _shown(statements: Sequence[Json]) -> Iterable[Json | int]:
    if len(statements) <= MOST_SEGMENTS:
        return statements
    half = MOST_SEGMENTS // 2
    return [*statements[:half], len(statements) - 2 * half, *statements[-half:]]


def _sources(sheet: _Sheet, first: Json) -> int:
    """Data, spec and code side by side; where the segments begin."""
    definition = first["predicate"]["buildDefinition"]
    asked, inside = definition["externalParameters"], definition["internalParameters"]
    found = {one["name"]: one for one in definition["resolvedDependencies"]}
    for name, x, width in (("data", MACHINE_X, MACHINE_W), ("code", CHECKPOINT_X, CHECKPOINT_W)):
        one = found.get(name)
        lines = [name.capitalize(), one["annotations"]["label"], _digest(one)] if one else [name.capitalize(), "none submitted", ""]
        sheet.box(x, TOP, width, "data", lines)
    record = inside["committed"]["spec"][0]
    spec = ["Spec", f"{asked['strategy'].get('name', '')}, seed {asked['order_seed']}, {asked['precision']}", f"committed in record {record}"]
    height = sheet.box(SEGMENT_X, TOP, SEGMENT_W, "data", spec)
    return TOP + height + 2 * GAP


def _segment(sheet: _Sheet, statement: Json, y: int) -> tuple[int, tuple[int, int]]:
    """One row: machines, the segment, its checkpoint; its height, and where an arrow to the next one begins."""
    inside, details = statement["predicate"]["buildDefinition"]["internalParameters"], statement["predicate"]["runDetails"]
    rounds, steps, work = inside["rounds"], inside["steps"], details["torg_work"]
    tokens = sum(one["tokens"] for one in work)
    lines = [f"Segment {inside['segment']}", f"{_span('round', rounds['first'], rounds['last'])}, steps {steps['first']} to {steps['last']}",
             f"{tokens:,} tokens"]  # fmt: skip
    losses = [row["held_out_loss"] for row in details["torg_metrics"] if "held_out_loss" in row]
    lines += [f"held-out loss {losses[-1]:.4g}"] if losses else []
    height = sheet.box(SEGMENT_X, y, SEGMENT_W, "work", lines)
    beside = y
    for at, one in enumerate(work):
        if at == MOST_MACHINES and len(work) > MOST_MACHINES:
            sheet.parts.append(f'<text class="soft" x="{MACHINE_X + PAD}" y="{beside + 12}">and {len(work) - at} machines more</text>')
            beside += LINE
            break
        tall = sheet.box(MACHINE_X, beside, MACHINE_W, "machine", _machine(one))
        sheet.across(MACHINE_X + MACHINE_W, beside + tall // 2, SEGMENT_X, y + height // 2)
        beside += tall + 6
    made = statement["subject"][0]
    tall = sheet.box(CHECKPOINT_X, y, CHECKPOINT_W, "made", [f"Checkpoint of round {rounds['last']}", _digest(made), f"record {details['torg_log']['checkpoint'][0]}"])
    sheet.across(SEGMENT_X + SEGMENT_W, y + height // 2, CHECKPOINT_X, y + tall // 2)
    return max(height, tall, beside - y - 6), (CHECKPOINT_X + CHECKPOINT_W // 2, y + tall)


def _machine(work: Json) -> list[str]:
    facts = work.get("machine", {}).get("facts", {})
    told = [f"{name} {facts[name]}" for name in ("torch", "driver", "threads") if name in facts]
    return [f"{work['provider']}: {work['gpus']} × {work['gpu']}", f"{work['lease']}, {_span('round', 1, work['rounds'], counted=True)}", *([", ".join(told)] if told else [])]


def _span(what: str, first: int, last: int, *, counted: bool = False) -> str:
    if counted:
        return f"{last} {what}" + ("" if last == 1 else "s")
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def _digest(one: Json) -> str:
    digest = one.get("digest", {}).get("sha256")
    return "" if digest is None else f"sha256 {digest[:16]}…"
