"""Which secrets a member has, and for which of its jobs: names and tokens, never values.

A value is sealed on the market's disk (`market/api/vault.py`) before `SetSecret` names its token here, so the journal says
which values count and holds none of them. While a job is open, what it names cannot be removed; a new value is what leases
get from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from market.checking import invalid
from market.command_checking import SECRET, is_reserved
from market.commands import RemoveSecret, SetSecret
from market.leases import LeaseState
from market.outcomes import Answer, Json, Refusal, unknown
from market.state import Job, State
from market.turn import Turn

HOLDERS: Final = ("customer", "operator")
MAX_SECRETS: Final = 200


def set_secret(turn: Turn, command: SetSecret) -> Answer | Refusal:
    """A new secret, or a new value of one."""
    refusal = turn.require(command.by, HOLDERS)
    if refusal is not None:
        return refusal
    if SECRET.fullmatch(command.name) is None or is_reserved(command.name):
        return invalid(
            "name", command.name, "the name of a variable that torg does not set: letters, digits, underscores"
        )
    own = turn.state.secrets.get(command.by, {})
    if command.name not in own and len(own) >= MAX_SECRETS:
        return Refusal(
            "too_many_secrets", f"{command.by} has {MAX_SECRETS} secrets", remedy="torg secret rm NAME", status=429
        )
    created = command.name not in own
    turn.emit("secret_set", {"member": command.by, "name": command.name, "token": command.token})
    return Answer(_view(turn.state, command.by, command.name), created=created)


def remove_secret(turn: Turn, command: RemoveSecret) -> Answer | Refusal:
    """Forget it, unless an open job names it."""
    refusal = turn.require(command.by, HOLDERS)
    if refusal is not None:
        return refusal
    if command.name not in turn.state.secrets.get(command.by, {}):
        return unknown("secret", command.name)
    users = _used_by(turn.state, command.by, command.name)
    if users:
        message = f"{command.name} is wanted by {', '.join(users[:5])}"
        return Refusal(
            "secret_in_use", message, field="name", remedy="wait for the end of what uses it, or cancel it", status=409
        )
    turn.emit("secret_removed", {"member": command.by, "name": command.name})
    return Answer({"name": command.name, "removed": True})


def check_secrets(state: State, customer: str, spec: Mapping[str, Any]) -> Refusal | None:
    """Whether the customer has what the job names."""
    own = state.secrets.get(customer, {})
    for name in spec.get("command", {}).get("secrets", ()):
        if name not in own:
            message = f"command.secrets names {name}, and {customer} has no secret of that name"
            return Refusal("secret_unknown", message, field="command.secrets", remedy=f"torg secret set {name}")
    return None


def secrets_of(state: State, member: str) -> list[Json]:
    """One's own, by name, without values."""
    return [_view(state, member, name) for name in sorted(state.secrets.get(member, {}))]


def secrets_for_lease(state: State, lease: str, epoch: int, provider: str) -> tuple[str, dict[str, str]] | None:
    """(customer, {name: token}) of what the job of that living lease names; None when the lease is not this provider's,
    is over, or is another's by now.
    """
    found = state.leases.get(lease)
    if found is None or found.provider != provider or found.epoch != epoch or found.state is LeaseState.ENDED:
        return None
    job = state.jobs[found.job]
    own = state.secrets.get(job.customer, {})
    return job.customer, {name: own[name]["token"] for name in _names(job)}


def _names(job: Job) -> list[str]:
    names: list[str] = (job.command or {}).get("secrets", [])
    return names


def _used_by(state: State, member: str, name: str) -> list[str]:
    return [job for job in state.jobs_of.get(member, ()) if state.jobs[job].open and name in _names(state.jobs[job])]


def _view(state: State, member: str, name: str) -> Json:
    found = state.secrets[member][name]
    return {"name": name, "set_ms": found["set_ms"], "used_by": _used_by(state, member, name)}
