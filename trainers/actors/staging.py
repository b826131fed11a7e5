"""What a worker sets aside in its RAM for checkpoints: the whole state, or what one round merged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

from trainers.actors.quietly import quietly
from trainers.child_process import Exported, TrainerChild
from trainers.member import Member, staged
from trainers.snapshots import Snapshot, Snapshots

Json = dict[str, Any]

INNER_TIMEOUT_S = 60.0


class Staging:
    """See the module. `buffers`: the model keeps tensors beside its parameters, which go with every base. `child` must
    be idle for them. Whatever is asked for by its round is serialised then, at low priority.
    """

    def __init__(self, child: TrainerChild, *, buffers: bool = False) -> None:
        self._child = child
        self.has_buffers = buffers
        self._snapshots = Snapshots()

    def snapshot(self, member: Member, wanted: str, *, inner: Callable[[], Exported] | None) -> Json:
        """Set the adopted state aside: {kind, bytes, strategy, inner, buffers}. A delta where one is wanted and can be
        replayed, else a base, with what `inner` gives.
        """
        content, buffers, bundle = None, None, member.bundle if wanted == "delta" else None
        if bundle is not None:
            kept = Snapshot("delta", member.round, member.digest(), bundle.payload_bytes, bundle.pack)
        else:
            content = inner() if inner is not None else None
            buffers = self._child.export_buffers(INNER_TIMEOUT_S) if self.has_buffers else None
            state = staged(member)
            size = sum(vector.nbytes for vector in member.state.values())
            kept = Snapshot(
                "base", member.round, member.digest(), size, lambda: state.export(own=True), content, buffers
            )
        self._snapshots.add(kept)
        return {"kind": kept.kind, "bytes": kept.size_bytes if bundle is not None else 0,
                "strategy": member.spec["strategy"], "inner": content is not None, "buffers": buffers is not None}  # fmt: skip

    def staged(self, round: int, kind: Literal["base", "delta"]) -> bytes:
        """What `snapshot` set aside at that round, as bytes."""
        return quietly(lambda: self._snapshots.staged(round, kind))

    def staged_inner(self, round: int) -> bytes:
        """The inner optimiser's state that `snapshot` set aside with a base; only once."""
        exported = self._snapshots.take_inner(round)
        assert exported is not None, "no inner state was set aside, or it was handed out"
        return quietly(exported.content)

    def staged_buffers(self, round: int) -> bytes:
        """The model's buffers that `snapshot` set aside with a base."""
        content = self._snapshots.buffers(round)
        assert content is not None, "the model has no buffers"
        return content

    def recall(self, round: int, digest: str, inner: str | None) -> tuple[bytes, bytes | None, bool] | None:
        """(state, inner optimiser's state, whether this member's own vectors of that round are in the state): what was set
        aside here, its deltas replayed. The inner one is the base's, and wanted where it has the digest `inner`. None when
        either is not here: the inner one is not once it was handed out.
        """
        if self._snapshots.rounds().get(round) != digest:
            return None
        base = self._snapshots.base(round)
        content = base.inner.content() if base is not None and base.inner is not None and inner is not None else None
        if inner is not None and (content is None or hashlib.sha256(content).hexdigest() != inner):
            return None
        state = self._snapshots.state(round, Member.replay)
        return None if base is None or state is None else (state, content, base.round == round)
