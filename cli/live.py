"""A job as its events tell it: a pure fold, and the live view of it.

`RunView.fold` takes the records of `GET /v1/jobs/{id}/events` in order and returns the lines worth telling;
nothing here reads a clock or the network.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cli.arguments import usd
from market.faults import BY_REASON

if TYPE_CHECKING:
    from rich.console import RenderableType

FINAL = frozenset({"done", "failed", "cancelled"})
SHOWN_HAPPENINGS = 6
SHOWN_ROUNDS = 8
LONGEST_DETAIL = 60


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round. `tokens_per_s` counts all members; `loss` is their mean training loss."""

    round: int
    step: int
    members: int
    loss: float | None
    tokens_per_s: float | None
    lost: int
    reason: str
    at_ms: int


@dataclass(slots=True)
class Member:
    """One lease of the job."""

    lease: str
    provider: str
    gpu: str
    price_nanos: int
    state: str = "granted"
    rounds: int = 0
    tokens: int = 0
    trained_ms: int = 0
    detail: str = ""


@dataclass(slots=True)
class RunView:
    """All that a person who watches wants to know, kept up to date by `fold`."""

    job: str
    name: str = ""
    planned: int | None = None
    budget_nanos: int | None = None
    state: str = "pending"
    reason: str = ""
    loss_first: float | None = None
    loss_last: float | None = None
    spent_nanos: int = 0
    durable_round: int = 0
    first_at_ms: int | None = None
    last_number: int = 0
    rounds: list[Round] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    happenings: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_HAPPENINGS))

    @property
    def final(self) -> bool:
        """Nothing more will happen to this job."""
        return self.state in FINAL

    def fold(self, record: dict[str, Any]) -> list[str]:
        """Take one record in; the lines that a log for people should say because of it."""
        event, at_ms = record["event"], int(record.get("at_ms") or 0)
        self.last_number = max(self.last_number, int(record.get("number") or 0))
        if at_ms:
            self.first_at_ms = self.first_at_ms or at_ms
        teller = _TELLERS.get(event["type"])
        lines = teller(self, event, at_ms) if teller else []
        if event["type"] not in ("round_committed", "round_evaluated"):
            self.happenings.extend(lines)
        return lines


def _job_submitted(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.name = event.get("name") or view.name
    view.planned = (event.get("spec") or {}).get("rounds") or view.planned
    view.budget_nanos = event.get("budget_nanos")
    return []


def _job_state(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    kind, detail = event.get("reason") or "", event.get("detail") or ""
    view.state = event["state"]
    view.reason = detail if kind in ("", view.state) else ": ".join(part for part in (kind, detail) if part)
    view.reason = view.reason or kind
    return [f"{view.job} is {view.state}" + (f": {view.reason}" if view.reason else "")]


def _job_budget(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.budget_nanos = event["budget_nanos"]
    return [f"budget raised to {usd(view.budget_nanos)}"]


def _lease_granted(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    member = Member(event["lease"], event["provider"], event["gpu"], event["price_nanos_per_gpu_hour"])
    view.members[member.lease] = member
    what = f"replaces {event['replaces']}" if event.get("replaces") else "joins"
    return [
        f"{member.provider} {what}: {event.get('gpus', 1)} × {member.gpu} at {usd(member.price_nanos)}/h ({member.lease})"
    ]


def _lease_started(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    if member := view.members.get(event["lease"]):
        member.state = "active"
        return [f"{member.provider} is ready (pid {event.get('pid')})"]
    return []


def _lease_metered(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    if member := view.members.get(event["lease"]):
        member.rounds, member.tokens = event["rounds"], event["tokens"]
        member.trained_ms = event["trained_ms"]
    return []


def _lease_charged(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.spent_nanos += event["amount_nanos"]
    return []


def _lease_ended(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    member = view.members.get(event["lease"])
    if member is None:
        return []
    member.state, member.detail = "ended", event["reason"]
    if event.get("fault") == "provider":
        member.state = "lost"
        detail = str(event.get("detail") or "")
        cause = BY_REASON.get(event["reason"])
        why = detail if 0 < len(detail) <= LONGEST_DETAIL else cause.event if cause else event["reason"]
        return [f"{member.provider} is lost ({why}): its meter stopped, the work it did not deliver is not charged"]
    return []


def _round_committed(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    members, lost = event["members"], event.get("lost") or []
    losses = [member["loss"] for member in members if member.get("loss") is not None]
    tokens = sum(member.get("tokens") or 0 for member in members)
    for member in members:
        if known := view.members.get(member["lease"]):
            known.rounds += 0 if known.rounds >= event["round"] else 1
            known.state = "active" if known.state == "granted" else known.state
    made = Round(
        event["round"], event["step"], len(members), sum(losses) / len(losses) if losses else None,
        tokens * 1000 / event["duration_ms"] if tokens and event.get("duration_ms") else None,
        len(lost), event.get("reason") or "", at_ms,
    )  # fmt: skip
    view.rounds.append(made)
    loss = "" if made.loss is None else f"  loss {made.loss:.3f}"
    speed = "" if made.tokens_per_s is None else f"  {made.tokens_per_s:,.0f} tokens/s"
    without = f"  without {made.lost} lost" if lost else ""
    of = f"/{view.planned}" if view.planned else ""
    plural = "" if made.members == 1 else "s"
    return [f"round {made.round}{of}{loss}{speed}  {made.members} worker{plural}  {usd(view.spent_nanos)}{without}"]


def _round_evaluated(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.loss_last = event["loss"]
    if view.loss_first is None:
        view.loss_first = event["loss"]
    return [f"round {event['round']}  held-out loss {event['loss']:.4f}"]


def _checkpoint_durable(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.durable_round = event["round"]
    return []


_TELLERS = {
    "job_submitted": _job_submitted,
    "job_state": _job_state,
    "job_budget": _job_budget,
    "lease_granted": _lease_granted,
    "lease_started": _lease_started,
    "lease_metered": _lease_metered,
    "lease_charged": _lease_charged,
    "lease_ended": _lease_ended,
    "round_committed": _round_committed,
    "round_evaluated": _round_evaluated,
    "checkpoint_durable": _checkpoint_durable,
}


def render(view: RunView, width: int) -> "RenderableType":
    """The live picture: headline, workers, the newest rounds, what happened."""
    from rich.console import Group
    from rich.text import Text

    from cli.output import Column, Styled, printable, table

    workers = table(
        [Column("provider"), Column("gpu", gives_way=3), Column("price/h", right=True, gives_way=2), Column("state"),
         Column("rounds", right=True), Column("trained", right=True, gives_way=4), Column("lease", gives_way=5)],
        [[one.provider, one.gpu, usd(one.price_nanos), Styled(one.state, _STYLES.get(one.state, "")), str(one.rounds),
          f"{one.trained_ms / 1000:.1f} s", one.lease] for one in view.members.values()],
        width=width,
    )  # fmt: skip
    rounds = table(
        [Column("round", right=True), Column("loss", right=True), Column("tokens/s", right=True, gives_way=2),
         Column("workers", right=True), Column("decision", gives_way=1)],
        [[str(one.round), "–" if one.loss is None else f"{one.loss:.4f}",
          "–" if one.tokens_per_s is None else f"{one.tokens_per_s:,.0f}", str(one.members),
          Styled(one.reason[: max(0, width - 44)], "yellow" if one.lost else "dim")] for one in view.rounds[-SHOWN_ROUNDS:]],
        width=width,
    )  # fmt: skip
    told = Text(
        "\n".join(printable(line) for one in view.happenings for line in one.splitlines()),
        no_wrap=True,
        overflow="ellipsis",
    )
    return Group(headline(view), workers, rounds, told)


_STYLES = {"active": "green", "lost": "bold red", "ended": "dim", "granted": "yellow"}


def headline(view: RunView) -> "RenderableType":
    """One line: which job, how far, how good, how dear."""
    from rich.text import Text

    from cli.output import printable

    done = view.rounds[-1].round if view.rounds else 0
    held_out = "" if view.loss_last is None else f"  held-out loss {view.loss_first:.3f} → {view.loss_last:.3f}"
    of = f"/{view.planned}" if view.planned else ""
    budget = f" of {usd(view.budget_nanos)}" if view.budget_nanos else ""
    text = f"{view.job} {view.name}  {view.state}  round {done}{of}{held_out}  {usd(view.spent_nanos)}{budget}"
    return Text(printable(text), style="bold", no_wrap=True, overflow="ellipsis")
