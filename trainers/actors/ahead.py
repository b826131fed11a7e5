"""Steps of the next round that a worker trains while the exchange of this one is under way (Streaming DiLoCo's τ)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from trainers.child_process import ChildFailed, TrainerChild


class Ahead:
    """One thread at a time. `wait` before anything else is asked of the child."""

    def __init__(self, child: TrainerChild) -> None:
        self._child = child
        self._thread: threading.Thread | None = None
        self._tokens = 0
        self._failure: ChildFailed | None = None

    def start(self, share: Mapping[str, Any], steps: int) -> None:
        """Go on for so many steps, with the batches that follow those of `share` (arguments of `TrainerChild.train`)."""
        done = int(share["steps"])
        following = {
            **share, "first_step": share["first_step"] + done, "position": share["position"] + done, "steps": steps,
        }  # fmt: skip

        def work() -> None:
            try:
                self._tokens = self._child.train(None, **following).tokens
            except ChildFailed as failed:
                self._failure = failed

        self._failure = None
        self._thread = threading.Thread(target=work, name="ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when it is done, however it ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """Before the share that it belongs to is gone on with. Raises the ChildFailed that ended it, once."""
        self.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def forget(self) -> None:
        """Nothing is built on it."""
        self.wait()
        self._tokens, self._failure = 0, None

    def take_tokens(self) -> int:
        """What was trained ahead since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens
