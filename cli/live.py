"""A job as its events tell it: a pure fold (cli/picture.py draws it).

`RunView.fold` takes the records of `GET /v1/jobs/{id}/events` in order and returns the lines worth telling;
nothing here reads a clock or the network.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cli.arguments import megabytes, usd
from cli.round_lines import RoundLine, RoundLines
from market.faults import BY_REASON

FINAL = frozenset({"done", "failed", "cancelled"})
SHOWN_HAPPENINGS = 6
LONGEST_DETAIL = 60


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
    sent_bytes: int | None = None
    """In the last round that it was in."""
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
    steps: int = 0
    strategy: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Any] | None = None
    rounds: list[RoundLine] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    happenings: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_HAPPENINGS))
    lines: RoundLines = field(default_factory=RoundLines)
    argv: list[str] = field(default_factory=list)
    """What a batch job runs; empty of one that trains."""

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
    spec = event.get("spec") or {}
    view.planned, view.steps = spec.get("rounds") or view.planned, spec.get("steps") or 0
    view.strategy = spec.get("strategy") or {}
    view.budget_nanos = event.get("budget_nanos")
    view.argv = list((spec.get("command") or {}).get("argv") or ())
    return []


def _job_state(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    kind, detail = event.get("reason") or "", event.get("detail") or ""
    if detail == "1 workers":  # so it is in the journal
        detail = "1 worker"
    view.state = event["state"]
    view.reason = detail if kind in ("", view.state) else ": ".join(part for part in (kind, detail) if part)
    view.reason = view.reason or kind
    return [f"{view.job} is {view.state}" + (f": {view.reason}" if view.reason else "")]


def _job_budget(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.budget_nanos = event["budget_nanos"]
    return [f"budget raised to {usd(view.budget_nanos)}"]


def _budget_reached(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    told = f"{event['percent']} % of the budget is used: {usd(event['used_nanos'])} of {usd(event['budget_nanos'])}"
    return [told]


def _limit_reached(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    whose = f"team {event['team']}" if event["team"] else event["member"]
    what = f"{event['percent']} % of what {whose} may spend a {event['period']}"
    return [f"{what} is used: {usd(event['used_nanos'])} of {usd(event['limit_nanos'])}"]


def _job_retuned(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.tuned = event["strategy"]
    _plan_again(view)
    return [f"retuned ({event['tuning']}): {event['strategy']['name']} from a round after {event['after_round']} on"]


def _plan_again(view: RunView) -> None:
    """After a change of strategy a round may be longer or shorter than the one that the job was planned with."""
    if view.tuned is None or not view.steps:
        return
    from trainers.round_lengths import round_lengths

    done, step = (view.rounds[-1].round, view.rounds[-1].step) if view.rounds else (0, 0)
    view.planned = done + round_lengths(view.tuned, view.steps).rounds_from(step)


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


def _lease_noticed(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    member, cause = view.members.get(event["lease"]), BY_REASON.get(event["reason"])
    if member is None:
        return []
    return [f"{member.provider} leaves within {event['notice_ms'] / 1000:g} s: {event['reason'] if cause is None else cause.event}"]


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
    for member in event["members"]:
        if known := view.members.get(member["lease"]):
            known.rounds += 0 if known.rounds >= event["round"] else 1
            known.state = "active" if known.state == "granted" else known.state
            known.sent_bytes = member.get("sent_bytes")
    made = view.lines.line(event, at_ms)
    while view.rounds and view.rounds[-1].round >= made.round:  # lost with every machine, and made again
        view.rounds.pop()
    view.rounds.append(made)
    _plan_again(view)
    loss = "" if made.loss is None else f"  loss {made.loss:.3f}"
    speed = "" if made.tokens_per_s is None else f"  {made.tokens_per_s:,.0f} tokens/s"
    without = f"  without {len(made.lost)} lost" if made.lost else ""
    sent = f"  {megabytes(made.sent_bytes_per_worker)} sent each" if made.sent_bytes else ""
    late = f"  late: slot {', '.join(str(slot) for slot in made.late)}" if made.late else ""
    again = f"  merged at attempt {made.attempts}" if made.attempts > 1 else ""
    of = f"/{view.planned}" if view.planned else ""
    plural = "" if made.members == 1 else "s"
    told = f"round {made.round}{of}{loss}{speed}  {made.members} worker{plural}  {usd(view.spent_nanos)}"
    warnings = [f"slot {one['slot']} is warned: {one['reason']}" for one in made.warned]
    if made.strategy and view.rounds[:-1] and view.rounds[-2].strategy not in ("", made.strategy):
        warnings.append(f"round {made.round} is the first with {made.strategy}")
    warnings += _longer_rounds(view)
    view.happenings.extend(warnings)
    return [told + sent + late + again + without, *warnings]


def _longer_rounds(view: RunView) -> list[str]:
    """Where the job's schedule of inner steps turns: the next round is the first of another length."""
    strategy = view.tuned or view.strategy
    if "inner_steps_later" not in strategy or not view.steps:
        return []
    from trainers.round_lengths import round_lengths

    lengths = round_lengths(strategy, view.steps)
    before, now = (view.rounds[-2].step if view.rounds[:-1] else 0), view.rounds[-1].step
    if not before < lengths.later_from <= now < view.steps:
        return []
    return [f"rounds from {view.rounds[-1].round + 1} on have {lengths.later} inner steps instead of {lengths.steps}"]


def _round_evaluated(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.loss_last = event["loss"]
    if view.loss_first is None:
        view.loss_first = event["loss"]
    for made in reversed(view.rounds):
        if made.round == event["round"]:
            made.held_out_loss, made.metrics = event["loss"], dict(event.get("metrics") or {})
            break
    told = "".join(f"  {name} {value:.4g}" for name, value in sorted((event.get("metrics") or {}).items()))
    return [f"round {event['round']}  held-out loss {event['loss']:.4f}{told}"]


def _attempt_ended(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    artifacts = "; its artifacts are kept" if event.get("manifest") else ""
    return [f"try {event['number']}: {event.get('detail') or event['kind']}{artifacts}"]


def _checkpoint_durable(view: RunView, event: dict[str, Any], at_ms: int) -> list[str]:
    view.durable_round = event["round"]
    return []


_TELLERS = {
    "job_submitted": _job_submitted,
    "job_state": _job_state,
    "job_budget": _job_budget,
    "budget_reached": _budget_reached,
    "limit_reached": _limit_reached,
    "job_retuned": _job_retuned,
    "lease_granted": _lease_granted,
    "lease_started": _lease_started,
    "lease_metered": _lease_metered,
    "lease_charged": _lease_charged,
    "lease_noticed": _lease_noticed,
    "lease_ended": _lease_ended,
    "round_committed": _round_committed,
    "round_evaluated": _round_evaluated,
    "checkpoint_durable": _checkpoint_durable,
    "attempt_ended": _attempt_ended,
}
