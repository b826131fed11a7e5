"""Rounds of a job as flat lines: what `torg watch --json` prints and `torg metrics` writes. Pure.

docs/API.md lists the fields; they are only added to, never renamed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Json = dict[str, Any]


OF_A_WORKER = (
    "slot", "lease", "steps", "tokens", "loss", "sent_bytes", "received_bytes", "stall_ms", "leased_ms", "trained_ms"
)  # fmt: skip


@dataclass(slots=True)
class RoundLine:
    """One committed round. Counts, bytes and times are sums over its members, `loss` is their mean training loss.

    `leased_ms` and `trained_ms` are worker-milliseconds since each member's round before; `goodput` is trained ÷ leased.
    `workers`: each member's own, with its slot and lease.
    `held_out_loss` is None until it is known; `metrics` are the workload's own figures beside it, by name.
    """

    job: str
    round: int
    step: int
    at_ms: int
    duration_ms: int
    strategy: str
    tuning: int
    attempts: int
    members: int
    tokens: int
    tokens_per_s: float | None
    loss: float | None
    held_out_loss: float | None
    metrics: Json
    leased_ms: int
    trained_ms: int
    goodput: float | None
    sent_bytes: int
    received_bytes: int
    sent_bytes_per_worker: int
    stall_ms: int
    late: list[int] = field(default_factory=list)
    warned: list[Json] = field(default_factory=list)
    workers: list[Json] = field(default_factory=list)
    lost: list[Json] = field(default_factory=list)
    reason: str = ""

    def document(self) -> Json:
        """As `--json` prints it."""
        return {"type": "round", **asdict(self)}

    def columns(self) -> Json:
        """The same with a column `metrics.NAME` for each figure, for files that have only columns."""
        flat = self.document()
        return flat | {f"metrics.{name}": value for name, value in flat.pop("metrics").items()}


class RoundLines:
    """Makes lines of rounds told in order; remembers each lease's meters, which are cumulative."""

    def __init__(self) -> None:
        self._meters: dict[str, tuple[int, int]] = {}

    def line(self, record: Mapping[str, Any], at_ms: int) -> RoundLine:
        """The line of one `round_committed` event, or of one item of `GET /v1/jobs/{job}/rounds`."""
        members = record["members"]
        losses = [member["loss"] for member in members if member.get("loss") is not None]
        tokens, duration_ms = _sum(members, "tokens"), record["duration_ms"] or 0
        leased_ms, trained_ms = self._worked(members)
        sent = _sum(members, "sent_bytes")
        return RoundLine(
            job=record["job"],
            round=record["round"],
            step=record["step"],
            at_ms=at_ms,
            duration_ms=duration_ms,
            strategy=record.get("strategy", ""),
            tuning=record.get("tuning", 0),
            attempts=record.get("attempts", 1),
            members=len(members),
            tokens=tokens,
            tokens_per_s=tokens * 1000 / duration_ms if tokens and duration_ms else None,
            loss=sum(losses) / len(losses) if losses else None,
            held_out_loss=record.get("loss"),
            metrics=dict(record.get("metrics") or {}),
            leased_ms=leased_ms,
            trained_ms=trained_ms,
            goodput=trained_ms / leased_ms if leased_ms else None,
            sent_bytes=sent,
            received_bytes=_sum(members, "received_bytes"),
            sent_bytes_per_worker=sent // max(1, len(members)),
            stall_ms=_sum(members, "stall_ms"),
            late=list(record.get("late", ())),
            warned=list(record.get("warned", ())),
            workers=[{name: member.get(name) for name in OF_A_WORKER} for member in members],
            lost=list(record.get("lost") or ()),
            reason=record.get("reason") or "",
        )

    def _worked(self, members: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
        leased = trained = 0
        for member in members:
            now = (int(member.get("leased_ms") or 0), int(member.get("trained_ms") or 0))
            before = self._meters.get(member["lease"], (0, 0))
            leased, trained = leased + max(0, now[0] - before[0]), trained + max(0, now[1] - before[1])
            self._meters[member["lease"]] = now
        return leased, trained


def lines_of(rounds: Iterable[Mapping[str, Any]]) -> Iterator[RoundLine]:
    """The lines of `GET /v1/jobs/{job}/rounds`."""
    made = RoundLines()
    for record in rounds:
        yield made.line(record, int(record.get("at_ms") or 0))


def _sum(members: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(int(member.get(name) or 0) for member in members)
