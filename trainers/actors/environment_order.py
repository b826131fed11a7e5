"""One try's environment, on its way: taken from this machine's store, or built there, while the run waits for the try."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from trainers.attempts import REQUIREMENTS, UNBUILT, Outcome
from trainers.environments.building import BuildCancelled, BuildTrouble, RequirementsRefused
from trainers.environments.store import Environments, Held
from trainers.sandbox import Isolation


class EnvironmentOrder:
    """Gets the environment of these requirements in a thread of its own, then calls `start` with its folder.

    `outcome`: why there is no command, once that is so; what `start` answers in its place counts as such. `end` ends what
    `start` has started, where it was cancelled meanwhile.
    """

    def __init__(
        self, environments: Environments, lines: Sequence[str], isolation: Isolation, start: Callable[[Path], Outcome | None],
        end: Callable[[], None],
    ) -> None:  # fmt: skip
        self.outcome: Outcome | None = None
        self._environments, self._lines, self._isolation, self._start = environments, list(lines), isolation, start
        self._end = end
        self._said: deque[str] = deque()
        self._cancelled, self._over = threading.Event(), threading.Event()
        self._held: Held | None = None
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether the command has been started, or will not be."""
        return self._over.is_set()

    def wait(self, timeout_s: float) -> bool:
        """`over`, after a while at the latest."""
        return self._over.wait(timeout_s)

    def cancel(self) -> None:
        """Nobody wants the command any more; returns at once."""
        self._cancelled.set()

    def take_lines(self) -> list[str]:
        """What the customer should read of it, once."""
        return [self._said.popleft() for _ in range(len(self._said))]

    @property
    def said_all(self) -> bool:
        """Whether every line of it was taken."""
        return not self._said

    def stop(self) -> None:
        """Cancel it, and wait until it is over."""
        self._cancelled.set()
        self._over.wait()

    def release(self) -> None:
        """The command has ended: the environment may go."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def _work(self) -> None:
        try:
            self._held = self._environments.take(self._lines, self._isolation, self._say, self._cancelled)
            self.outcome = Outcome("stopped") if self._cancelled.is_set() else self._start(self._held.folder)
            if self._cancelled.is_set() and self.outcome is None:
                self._end()
        except RequirementsRefused as refused:
            self._say(f"the environment cannot be built: {refused}")
            self._said.extend(refused.tail.splitlines())
            self.outcome = Outcome(REQUIREMENTS, detail=str(refused), tail=refused.tail)
        except BuildCancelled:
            self.outcome = Outcome("stopped")
        except (BuildTrouble, OSError) as error:
            self.outcome = Outcome(UNBUILT, detail=str(error))
        except Exception as error:
            self.outcome = Outcome(UNBUILT, detail=repr(error))
            raise
        finally:
            self._over.set()

    def _say(self, text: str) -> None:
        self._said.append(f"[torg: {text}]")
