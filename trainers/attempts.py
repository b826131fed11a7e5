"""A command's tries as a pure state machine: waiting for a worker → running there → collecting its artifacts → over.

A try that ends by itself counts: it succeeds, or one of `retries` is used up. One whose worker is lost does not count: the
command begins again wherever the next worker is. Every decision says why, in a sentence for the job's log.

A command may take its machine down with it, and the next one too. Nobody can prove that of one death; so a job fails only
after several in a row (`kills_machines`), each soon after the command's start and with nothing to show for it.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.units import counted, format_duration

REQUIREMENTS: Final = "requirements"
UNBUILT: Final = "unbuilt"
KINDS: Final = (
    "exit", "signal", "timeout", "not_found", "not_executable", "memory", "limit", REQUIREMENTS, "stopped", "died", UNBUILT,
)  # fmt: skip
"""How a try ends. `limit`: of processes or disk; `requirements`: they cannot be installed, so that it did not begin. The last
three do not count: it was told to stop, its machine let it down, or could not build its environment."""
COUNTED: Final = KINDS[:-3]
FAILED: Final = "command_failed"
KILLS: Final = "kills_workers"
DEATHS: Final = frozenset({"worker_killed", "worker_frozen", "worker_lost", "node_died"})
"""Losses that a command can bring about: of its worker or its machine, not of a network, and none that was announced."""
SOON_MS: Final = 300_000
"""A machine that lived longer with the command died of something else."""
DEATHS_OF_TWO: Final = 4
DEATHS_OF_ONE: Final = 6
"""Deaths in a row after which the command is at fault: of two providers' machines or more, or of one's."""
_SHELL_CODES: Final = {"timeout": 124, "not_executable": 126, "not_found": 127, "memory": 137, "limit": 137, REQUIREMENTS: 125}
BUILDS_OF_TWO: Final = 3
BUILDS_OF_ONE: Final = 6
"""Builds of an environment in a row that failed at no fault of anybody's that can be proved, as with deaths."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try of a command ended.

    Args:
        kind: one of KINDS. code: the exit status, of `exit`. signal: its number, of `signal`.
        duration_ms: from its start to its end. detail: more about it, such as whose end it was of several processes, or
        empty. tail: the last lines that it printed.
        exited: whether a command that was told to end did so by itself, and not by the signal.
    """

    kind: str
    code: int | None = None
    signal: int | None = None
    duration_ms: int = 0
    detail: str = ""
    tail: str = ""
    exited: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the command did what it was for: it exited with 0."""
        return self.kind == "exit" and self.code == 0

    @property
    def counts(self) -> bool:
        """Whether the command ended by its own doing."""
        return self.kind in COUNTED


def kills_machines(providers: Sequence[str]) -> bool:
    """Whether a command is at fault, by whose machines died in a row soon after its start, with nothing to show for it."""
    enough = DEATHS_OF_TWO if len(set(providers)) > 1 else DEATHS_OF_ONE
    return len(providers) >= enough


def shell_code(kind: str, code: int | None, number: int | None) -> int:
    """The exit code by which a shell would tell of it: 128 + n for signal n, 124 for a timeout, 126, 127."""
    if kind == "exit":
        assert code is not None
        return code
    return 128 + number if kind == "signal" and number is not None else _SHELL_CODES.get(kind, 1)


def told(argv: Sequence[str], outcome: Outcome, timeout_ms: int | None) -> str:
    """One sentence about the end of a try."""
    what = shown(argv)
    whose = f" ({outcome.detail})" if outcome.detail else ""
    if outcome.kind == "exit":
        return f"{what} exited with status {outcome.code}{whose}"
    if outcome.kind == "signal":
        return f"{what} was ended by {signal_name(outcome.signal or 0)}{whose}"
    if outcome.kind == "timeout":
        return f"{what} was ended after its timeout of {format_duration(timeout_ms or 0)}"
    if outcome.kind == "not_found":
        return f"{argv[0]} was not found: {outcome.detail or 'there is no such program'}"
    if outcome.kind == "not_executable":
        return f"{argv[0]} cannot be executed: {outcome.detail or 'permission denied'}"
    if outcome.kind == "memory":
        return f"{what} was ended: {outcome.detail or 'it took more memory than its limit'}"
    if outcome.kind == REQUIREMENTS:
        return f"{what} has no environment: {outcome.detail}"
    if outcome.kind == "limit":
        return f"{what} was ended: {outcome.detail or 'it went beyond a limit of its sandbox'}"
    return f"{what} was stopped" if outcome.kind == "stopped" else f"{what} is gone: {outcome.detail}"


def shown(argv: Sequence[str], longest: int = 200) -> str:
    """A command as a shell would take it, cut where it is long."""
    text = " ".join(shlex.join(argv).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def signal_name(number: int) -> str:
    """Such as `SIGKILL (Killed)`."""
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class Begin:
    """Start try `number` on the worker of this slot; `restarts` is how often the command began before."""

    slot: int
    number: int
    restarts: int
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the command on this slot, politely first."""

    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class Collect:
    """Fetch the artifacts of the last try from the worker of this slot."""

    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Try `number` has ended by itself: the market is to know. `manifest` names its artifacts, if they were collected."""

    number: int
    slot: int
    outcome: Outcome
    manifest: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Over:
    """The run halts: state done, paused or failed, with the market's reason."""

    state: str
    reason: str
    manifest: str | None
    why: str


Decision = Begin | Stop | Collect | Report | Over
Decisions = tuple[Decision, ...]


class Attempts:
    """See the module. Every call answers what is to be done now; calls that no longer fit change nothing.

    Args:
        argv, retries, timeout_ms: the command's. collects: whether artifacts are wanted.
        before: tries that the market knows of, oldest first: {kind, exit_code, manifest, detail} each.
        restarts: how often the command began before, lost tries included.
        deaths: whose machines died in a row of late, soon after its start there, with nothing to show for it.
    """

    def __init__(
        self, argv: Sequence[str], *, retries: int, timeout_ms: int | None = None, collects: bool = False,
        before: Sequence[Mapping[str, Any]] = (), restarts: int = 0, deaths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._argv, self._retries, self._timeout_ms, self._collects = list(argv), retries, timeout_ms, collects
        self._before = list(before)
        self._restarts = restarts
        self._deaths = list(deaths)
        self._unbuilt: list[str] = []
        self._ended = len(self._before)
        self._failures = sum(one["exit_code"] != 0 for one in self._before)
        self._slot: int | None = None
        self._last: Outcome | None = None
        self._pausing = ""
        self.phase = "waiting"

    @property
    def number(self) -> int:
        """The try in progress, or the next one; they count from 1."""
        return self._ended + 1

    @property
    def slot(self) -> int | None:
        """Where the command runs or its artifacts are."""
        return self._slot

    @property
    def pausing(self) -> bool:
        """Whether the command is to stop."""
        return bool(self._pausing)

    def resume(self) -> Decisions:
        """What a predecessor has left undone: it may have died between telling of the last try and halting."""
        if not self._before:
            return ()
        last = self._before[-1]
        if last["exit_code"] == 0:
            return self._over("done", "done", last["manifest"], f"{shown(self._argv)} exited with status 0")
        if self._failures > self._retries or last["kind"] == REQUIREMENTS:
            reason = REQUIREMENTS if last["kind"] == REQUIREMENTS else FAILED
            return self._over("failed", reason, last["manifest"], last["detail"] or f"{shown(self._argv)} failed")
        return ()

    def arrived(self, slot: int) -> Decisions:
        """A worker is there."""
        if self.phase == "over" or self._pausing or self._slot == slot:
            return ()
        if self._slot is not None:
            self.lost(self._slot)
        self._slot = slot
        return (self._begin(),)

    def ended(self, slot: int, number: int, outcome: Outcome) -> Decisions:
        """The try has ended on its worker; one of kind `died` is told by `lost`."""
        if self.phase != "running" or (slot, number) != (self._slot, self.number):
            return ()
        if not outcome.counts:
            self._leave()
            return self._paused() if self._pausing else ()
        self._last = outcome
        final = outcome.succeeded or self._failures >= self._retries
        if final and self._collects and outcome.kind != REQUIREMENTS:
            self.phase = "collecting"
            return (Collect(slot, f"{self._told(outcome)}; collecting its artifacts"),)
        return self._close(slot, outcome, None)

    def collected(self, slot: int, manifest: str | None) -> Decisions:
        """The artifacts are in the store under this manifest, or (None) there are none."""
        if self.phase != "collecting" or slot != self._slot:
            return ()
        assert self._last is not None
        return self._close(slot, self._last, manifest)

    def progressed(self) -> None:
        """The command has something to show: it saved some of its work, or its machine lived for long with it."""
        self._deaths.clear()

    def unbuilt(self, slot: int, provider: str, why: str) -> Decisions:
        """The machine could not build the environment, and is lost with that. After several in a row no further one is asked."""
        if self.phase == "over" or slot != self._slot:
            return ()
        self._unbuilt.append(provider)
        self._leave()
        if self._pausing:
            return self._paused()
        if len(self._unbuilt) >= (BUILDS_OF_TWO if len(set(self._unbuilt)) > 1 else BUILDS_OF_ONE):
            what = f"{shown(self._argv)} has no environment: {counted(len(self._unbuilt), 'machine')} could not build it"
            return self._over("failed", REQUIREMENTS, None, f"{what}, the last one because: {why}")
        return ()

    def lost(self, slot: int, died: str = "") -> Decisions:
        """The worker is gone, and what it was doing with it. `died`: whose machine it was, if it died soon after the start."""
        if self.phase == "over" or slot != self._slot:
            return ()
        if died and self.phase == "running":
            self._deaths.append(died)
        self._leave()
        if self._pausing:
            return self._paused()
        if kills_machines(self._deaths):
            what = (
                f"{shown(self._argv)}: {counted(len(self._deaths), 'machine')} died in a row soon after it began there"
            )
            why = f"{what} ({', '.join(self._deaths)}), and it had saved nothing; look at what it takes of memory and devices"
            return self._over("failed", KILLS, None, why)
        return ()

    def pause(self, why: str) -> Decisions:
        """Stop the command and halt; artifacts that are being collected are collected first."""
        if self.phase == "over" or self._pausing:
            return ()
        self._pausing = why
        if self.phase == "running":
            assert self._slot is not None
            return (Stop(self._slot, f"stopping {shown(self._argv)}: {why}"),)
        return self._paused() if self.phase == "waiting" else ()

    def _begin(self) -> Begin:
        self.phase = "running"
        again = f", after {counted(self._restarts, 'earlier start')}" if self._restarts else ""
        tries = f" (try {self.number} of {self._ended + 1 + self._retries - self._failures})" if self._retries else ""
        assert self._slot is not None
        return Begin(self._slot, self.number, self._restarts, f"starting {shown(self._argv)}{tries}{again}")

    def _close(self, slot: int, outcome: Outcome, manifest: str | None) -> Decisions:
        number, why = self.number, self._told(outcome)
        self._ended += 1
        self._restarts += 1
        self.progressed()
        report = Report(number, slot, outcome, manifest, why)
        if outcome.succeeded:
            return (report, *self._over("done", "done", manifest, why))
        self._failures += 1
        if outcome.kind == REQUIREMENTS:  # they are the same on every machine
            return (report, *self._over("failed", REQUIREMENTS, None, f"{why}\n{outcome.tail}".rstrip()))
        if self._failures > self._retries:
            tried = "" if self._failures == 1 else f", the {_ordinal(self._failures)} time"
            tail = f"\n{outcome.tail}" if outcome.tail else ""
            return (report, *self._over("failed", FAILED, manifest, f"{why}{tried}{tail}"))
        if self._pausing:
            self._slot, self.phase = None, "waiting"
            return (report, *self._paused())
        return (report, self._begin())

    def _leave(self) -> None:
        self._slot, self._last, self.phase = None, None, "waiting"
        self._restarts += 1

    def _paused(self) -> Decisions:
        return self._over("paused", "paused", None, self._pausing)

    def _over(self, state: str, reason: str, manifest: str | None, why: str) -> Decisions:
        self.phase = "over"
        return (Over(state, reason, manifest, why),)

    def _told(self, outcome: Outcome) -> str:
        return told(self._argv, outcome, self._timeout_ms)


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
