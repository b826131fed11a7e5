"""How long a call to a trainer child may take, by our own clock."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Deadline:
    """When a call must be over, on the monotonic clock, and what it is doing."""

    began: float
    ends: float
    doing: str

    def left_s(self) -> float:
        """Seconds left, 0 when it is over."""
        return max(0.0, self.ends - time.monotonic())

    def elapsed_ms(self) -> int:
        """Since the call began."""
        return int((time.monotonic() - self.began) * 1000)
