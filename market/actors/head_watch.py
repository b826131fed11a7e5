"""A provider's host as a witness of the market's log: it looks now and then, in a thread of its own.

Each look holds the market to what this provider saw before, and to what others cosigned, and cosigns the new head with the
provider's own key (market/head_memory.py). A log that does not fit is said on every look, for as long as it does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from market.client import MarketUnreachable, Refused
from market.head_memory import HeadMemory, HeadsUnreadable, ShowsLog
from market.selftest_files import own_key
from market.witness import AnotherHistory
from storage.tree_heads import BadHead, NoSignatures

EVERY_S = 60.0
TROUBLE = 500


class HeadWatch:
    """say: a status line; now_ms: the time of day."""

    def __init__(
        self, market: ShowsLog, home: Path, say: Callable[..., None], now_ms: Callable[[], int], *, every_s: float = EVERY_S
    ) -> None:
        self._market, self._say, self._now_ms, self._every_s = market, say, now_ms, every_s
        self._memory = HeadMemory(home / "heads.json", lambda: own_key(home))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heads", daemon=True)

    def start(self) -> None:
        """Look at once, and then every so often."""
        self._thread.start()

    def close(self) -> None:
        """Look no more; a look under way may end by itself."""
        self._over.set()

    def look(self) -> None:
        """One look; what comes of it is said, unless all is well."""
        try:
            self._memory.look(self._market, now_ms=self._now_ms())
        except (AnotherHistory, BadHead) as error:
            self._say("another_history", message=str(error), file=str(self._memory.file))
        except (HeadsUnreadable, NoSignatures, OSError, ValueError) as error:
            self._say("unwitnessed", message=str(error))
        except MarketUnreachable:
            return  # whoever asks for leases says so
        except Refused as refused:
            if refused.status < TROUBLE and refused.code != "too_many_requests":  # those pass
                self._say("unwitnessed", message=refused.message)

    def _run(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(self._every_s)
