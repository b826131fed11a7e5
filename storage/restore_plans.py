"""From the checkpoints of a job to a state: which blobs to fetch and what to replay, for every round that they lead to."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from storage.checkpoints import Delta, Manifest


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """How to get the state after `round` rounds: fetch `state`, replay `deltas` in order, compare with `parameters`.

    `manifest` is the checkpoint that names all of it; `inner` the inner optimiser's state at the base, or None.
    """

    round: int
    step: int
    parameters: str
    state: str
    state_bytes: int
    deltas: tuple[Delta, ...]
    inner: str | None
    manifest: Manifest

    @property
    def blobs(self) -> tuple[str, ...]:
        """Digests of what has to be fetched; the inner state is not among them: training goes on without it."""
        return (*(chunk.blob for chunk in self.manifest.state_chunks), *(delta.blob for delta in self.deltas))


def restore_plans(manifests: Iterable[Manifest]) -> tuple[RestorePlan, ...]:
    """Every way to a state that these checkpoints of one job describe, the newest round first.

    A delta's chain also leads to the rounds before it. Of several ways to one round the newest checkpoint's comes
    first, and then the one with the fewest deltas.
    """
    found: list[tuple[tuple[int, int, int], RestorePlan]] = []
    for manifest in manifests:
        for length in range(len(manifest.deltas) + 1):
            plan = _plan(manifest, length)
            if plan is not None:
                found.append(((-plan.round, -manifest.created_at_ms, length), plan))
    return tuple(plan for _, plan in sorted(found, key=lambda each: each[0]))


def restore_plan(
    manifests: Iterable[Manifest], *, round: int | None = None, without: Collection[str] = frozenset()
) -> RestorePlan | None:
    """The way to `round`, or to the newest round that needs none of the blobs `without` (missing, damaged).

    None when there is none.
    """
    for plan in restore_plans(manifests):
        if round in (None, plan.round) and not any(blob in without for blob in plan.blobs):
            return plan
    return None


def _plan(manifest: Manifest, length: int) -> RestorePlan | None:
    deltas = manifest.deltas[:length]
    if length == 0 and manifest.deltas:
        return None  # the base's own manifest knows its step and digest; this one does not
    last = deltas[-1] if deltas else manifest
    return RestorePlan(
        round=last.round, step=last.step, parameters=last.parameters, state=manifest.state,
        state_bytes=manifest.state_bytes, deltas=deltas, inner=manifest.inner, manifest=manifest,
    )  # fmt: skip
