"""What a running command saves, on its way to the store and back to the next worker, in the background: block by block.

`Saving` asks the worker again and again what is whole in the checkpoint folder, brings the blocks that are new, and tells of
each manifest; `Restoring` gives a worker the blocks that it lacks before the command begins there.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from storage.saved import BLOCK_BYTES, Block, Saved, SavedError, SavedFile
from trainers.actors.answers import BadAnswer
from trainers.actors.gathering import Fetcher, Lost
from trainers.actors.wiring import DoorRefused
from trainers.saving import unit_of

Json = dict[str, Any]

log = logging.getLogger(__name__)

PART_OF_AGE = 0.02
"""Between two looks goes this part of the time since the try began, so that what a death costs stays small beside it."""
MOST_PAUSE_S = 60.0
PART_OF_CORES = 0.02
"""And saving takes this part of the lease's cores at most, wherever it is that it takes it."""
MOST_WAIT_S = 3600.0
"""For that: beyond it what a death costs would weigh more."""
PART_KNOWN = 0.2
"""Of what a save costs in all processes, what its two threads know that they had: 78 ms of 0.39 s for 32 MiB
(`python -m benchmarks.batch --only saving`); the rest is Ray's and the market's."""
AT_ONCE_BYTES = 8 << 20


def pause_s(age_s: float, spent_s: float, every_s: float) -> float:
    """How long to wait for the next look, `every_s` at least. spent_s: what the last one is known to have cost, in seconds of
    all the lease's cores.
    """
    return max(
        every_s, min(MOST_PAUSE_S, PART_OF_AGE * age_s), min(MOST_WAIT_S, spent_s / (PART_KNOWN * PART_OF_CORES))
    )


class Saving:
    """Keeps what a running try saves. `before` is what was kept last; `tell` hears of each new manifest, with its digest, and
    `say` what the customer should know. Ends by itself when the worker is gone.
    """

    def __init__(
        self, fetcher: Fetcher, before: Saved | None, tell: Callable[[Saved, str], None], say: Callable[[str], None],
        *, every_s: float,
    ) -> None:  # fmt: skip
        self._fetcher, self._before, self._tell, self._say, self._every_s = fetcher, before, tell, say, every_s
        self._kept = False
        self._said = ""
        self._finish, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._work, name="saving", daemon=True).start()

    def finish(self) -> None:
        """Look once more, then no longer; returns at once, `done` says when."""
        self._finish.set()

    def refused(self, before: Saved | None) -> None:
        """The market did not take the last manifest: what was kept before it is all that is kept."""
        self._before, self._kept = before, False

    @property
    def done(self) -> bool:
        """Whether the last look is over."""
        return self._done.is_set()

    def _work(self) -> None:
        began, wait_s, last = time.monotonic(), self._every_s, False
        try:
            while not last:
                last = self._finish.wait(wait_s)
                spent_s = self._look()
                wait_s = pause_s(time.monotonic() - began, spent_s, self._every_s)
        except (Lost, BadAnswer, SavedError) as error:
            log.info("nothing more is saved: %s", error)
        finally:
            self._done.set()

    def _look(self) -> float:
        """Keep what is new; what is known of its cost: the time of a processor that the worker had to read and we had to bring
        it, over the lease's cores.
        """
        began = time.thread_time()
        answer = self._fetcher.answer("saved", self._fetcher.number, self._kept)
        self._keep(answer)
        spent_s = answer["spent_ms"] / 1000 + time.thread_time() - began
        return spent_s / max(1, answer["cores"])

    def _keep(self, answer: Json) -> None:
        fetcher, before = self._fetcher, self._before
        found = Saved.from_json(answer["saved"])
        made = Saved(fetcher.job, fetcher.number, _merged(found, before, answer["waiting"]), found.left_out)
        self._tell_left_out(found.left_out)
        if made.files == (() if before is None else before.files):
            return
        if self._bring({} if before is None else before.blocks, made.blocks):
            manifest = fetcher.upload(made.encode())
            if manifest is not None:
                self._before, self._kept = made, True
                self._tell(made, manifest)

    def _bring(self, held: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
        """Whether all blocks are in the store: those of the last save are, and others that the market knows."""
        fetcher = self._fetcher
        missing = fetcher.missing([digest for digest in wanted if digest not in held])
        for parcel in parcels(Block(digest, wanted[digest]) for digest in missing or ()):
            contents = fetcher.blocks(parcel)
            if contents is None:
                log.info("a block changed before it was fetched")
                return False
            missing = fetcher.upload_all([(block.digest, content) for block, content in zip(parcel, contents, strict=True)])
            if missing:
                log.info("blocks that are not what they are called: %s", ", ".join(missing))
                return False
            if missing is None:
                break
        if missing is None:
            self._tell_once(f"the market does not take it ({fetcher.refused})")
        return missing is not None

    def _tell_left_out(self, left_out: int) -> None:
        if left_out:
            self._tell_once(f"{left_out} of its files are over the limits, or have names that cannot be told")

    def _tell_once(self, what: str) -> None:
        if what != self._said:
            self._said = what
            self._say(f"TORG_CHECKPOINT_DIR is not saved as it is: {what}")


def parcels(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """All of them in turn, as many at once as may be in memory."""
    parcel: list[Block] = []
    for block in blocks:
        if parcel and sum(one.bytes for one in parcel) + block.bytes > AT_ONCE_BYTES:
            yield parcel
            parcel = []
        parcel.append(block)
    if parcel:
        yield parcel


def _merged(found: Saved, before: Saved | None, waiting: list[str]) -> tuple[SavedFile, ...]:
    """What the worker has, and of units that are not whole there and that it never took, what was kept before."""
    there = {unit_of(file.path) for file in found.files}
    more = () if before is None else before.files
    old = [file for file in more if (unit := unit_of(file.path)) in waiting and unit not in there and file.is_cut()]
    return tuple(sorted([*found.files, *old], key=lambda file: file.path))


class Restoring:
    """Gives a worker what was saved. `done`: it has all blocks; or the store has not (`why` says so); or the worker could not
    take them (`lost` says why).
    """

    def __init__(self, saved: Saved, fetcher: Fetcher) -> None:
        self.why = self.lost = ""
        self.fetched_bytes = 0
        self._saved, self._fetcher = saved, fetcher
        self._done = threading.Event()
        threading.Thread(target=self._work, name="restoring", daemon=True).start()

    @property
    def done(self) -> bool:
        """See the class."""
        return self._done.is_set()

    def _work(self) -> None:
        try:
            self._restore()
        except (DoorRefused, ValueError) as error:
            self.why = str(error)
        except (Lost, BadAnswer) as error:
            self.lost = str(error)
        finally:
            self._done.set()

    def _restore(self) -> None:
        fetcher, blocks = self._fetcher, self._saved.blocks
        lacking = [one for one in fetcher.answer("lacks", list(blocks))["lacking"] if one in blocks]
        parcel: list[bytes] = []
        for digest in lacking:
            content = fetcher.read_blob(digest)
            if len(content) != blocks[digest] or hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"block {digest} is damaged")
            self.fetched_bytes += len(content)
            parcel.append(content)
            if sum(map(len, parcel)) > AT_ONCE_BYTES - BLOCK_BYTES:
                fetcher.answer("put_blocks", parcel)
                parcel = []
        if parcel:
            fetcher.answer("put_blocks", parcel)
