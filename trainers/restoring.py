"""From checkpoints to a state: fetch a base, replay its deltas, compare digests; a damaged chain leads to an older round."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from storage.checkpoints import Manifest
from storage.chunking import joined
from storage.model_files import parameters_digest
from storage.restore_plans import RestorePlan, restore_plans

Read = Callable[[str], bytes]
"""The bytes of a blob by its digest; raises ValueError when they are missing or are not those."""

Replay = Callable[[bytes, Sequence[bytes]], bytes]
"""As `Member.replay`; raises ValueError for what is no state or no delta of it."""


class NothingRestorable(Exception):
    """No checkpoint can be restored; the text says what is wrong with each."""


@dataclass(frozen=True, slots=True)
class Restored:
    """`state` after `plan.round` rounds, as `Member.restore` takes it; `lost`: why no newer one, "" when it is the newest."""

    plan: RestorePlan
    state: bytes
    lost: str


def restore_newest(manifests: Iterable[Manifest], read: Read, replay: Replay, *, round: int | None = None) -> Restored:
    """The newest state (or that of `round`) that these checkpoints of one job lead to; each blob is read once.

    The outcome's digest is the one that the members agreed on. Raises NothingRestorable.
    """
    blobs: dict[str, bytes | str] = {}
    wrong: dict[str, None] = {}
    for plan in restore_plans(manifests):
        if round in (None, plan.round):
            state = _state_of(plan, blobs, read, replay)
            if isinstance(state, bytes):
                return Restored(plan, state, "; ".join(wrong))
            wrong[f"round {plan.round}: {state}"] = None
    raise NothingRestorable("; ".join(wrong) or f"no checkpoint leads to {'a state' if round is None else round}")


def replay_members(base: bytes, deltas: Sequence[bytes]) -> bytes:
    """`Member.replay`, with ValueError for what it refuses."""
    from trainers.member import Member, MemberError

    try:
        return Member.replay(base, deltas)
    except MemberError as error:
        raise ValueError(str(error)) from error


def _state_of(plan: RestorePlan, blobs: dict[str, bytes | str], read: Read, replay: Replay) -> bytes | str:
    """The state, or what is wrong with it. `blobs`: what was read before, or why it could not be.

    Goes on after a blob that cannot be read, so that whoever reads learns of all that are damaged: later checkpoints may name
    the same ones.
    """
    contents: list[bytes] = []
    wrong = ""
    for digest in plan.blobs:
        if digest not in blobs:
            try:
                blobs[digest] = read(digest)
            except ValueError as reason:
                blobs[digest] = f"blob {digest[:12]} cannot be read: {reason}"
        found = blobs[digest]
        if isinstance(found, str):
            wrong = wrong or found
        else:
            contents.append(found)
    if wrong:
        return wrong
    chunks = len(plan.manifest.state_chunks)
    try:
        base = joined(plan.manifest, contents[:chunks])
        state = replay(base, contents[chunks:]) if plan.deltas else base
        digest = parameters_digest(state)
    except ValueError as reason:
        return f"it cannot be replayed: {reason}"
    return state if digest == plan.parameters else f"its parameters have the digest {digest}, not {plan.parameters}"
