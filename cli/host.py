"""A provider's host process and all that it leaves behind: started, heard, ended.

`torg provide` is the ancestor of everything it starts. On Linux it becomes a child subreaper, so a Ray process
whose parent dies becomes our child instead of init's, and ends with us.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
END_S = 4.0
FINAL_CODES = frozenset({0, 2, 3})  # drained, wrongly called, refused: starting again would not help
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
HOPELESS_AFTER = 3


def become_subreaper() -> bool:
    """Adopt orphaned descendants; False where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _ask_to_end_with_parent() -> None:
    # If this command is killed outright, its host must hear of it and clear up by itself.
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Host:
    """The child of `torg provide`. `run` returns its exit code once nothing of it is left."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        hear: Callable[[dict[str, Any]], None],
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._command, self._log, self._hear = list(command), log, hear
        self._pause_s = self._first_pause_s = first_pause_s
        self._process: subprocess.Popen[str] | None = None
        self._asked = 0
        self._told_to_end = threading.Event()
        self._served = False

    @property
    def told_to_end(self) -> bool:
        """Whether this command had a signal to end; a host that had not begun to listen, or was told twice, dies of it."""
        return self._told_to_end.is_set()

    def run(self) -> int:
        """Start the host, hear its JSON lines, pass SIGINT and SIGTERM on as «drain», clear up after it.

        A host that dies (Ray ends its processes when the cluster's head is gone for long) is started again and waits
        for the market; one that dies three times without having served in between is hopeless.
        """
        become_subreaper()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        previous = {number: signal.signal(number, self._drain) for number in (signal.SIGINT, signal.SIGTERM)}
        failures = 0
        try:
            while True:
                self._served = False
                with self._log.open("a", encoding="utf-8") as errors:
                    code = self._run_once(errors)
                failures = 0 if self._served else failures + 1
                if code in FINAL_CODES or self._asked or failures >= HOPELESS_AFTER:
                    return code
                self._pause_s = self._first_pause_s if self._served else min(2 * self._pause_s, LONGEST_PAUSE_S)
                self._hear({"event": "restart", "message": f"it ended with {code} (see {self._log})"})
                if self._told_to_end.wait(self._pause_s):
                    return 0
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run_once(self, errors: IO[str]) -> int:
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True, preexec_fn=_ask_to_end_with_parent,  # noqa: PLW1509 - no other thread runs yet
            )  # fmt: skip
            if self._asked:
                self._process.terminate()
            assert self._process.stdout is not None
            ears = threading.Thread(target=self._listen, args=(self._process.stdout, errors), daemon=True)
            ears.start()
            code = self._process.wait()
            end_descendants()
            ears.join(END_S)
            self._process.stdout.close()
        finally:
            end_descendants()
        return code

    def _listen(self, lines: IO[str], errors: IO[str]) -> None:
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                told = None
            if isinstance(told, dict):
                self._served = self._served or told.get("event") == "ready"
                self._hear(told)
            else:
                errors.write(line)

    def _drain(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        self._told_to_end.set()
        process = self._process
        if process is None or process.poll() is not None:
            return
        # The first request drains; whoever insists does not want to wait.
        process.send_signal(signal.SIGTERM if self._asked == 1 else signal.SIGKILL)


def end_descendants(grace_s: float = END_S) -> int:
    """End every descendant of this process, politely and then not; how many there were."""
    import psutil

    left = psutil.Process().children(recursive=True)
    for process in left:
        _signal(process.pid, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(left, timeout=grace_s)
    for process in stubborn:
        _signal(process.pid, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=grace_s)
    return len(left)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself, which is what we want
        os.kill(pid, number)


def running_hosts() -> list[dict[str, Any]]:
    """The configurations of this account's provider hosts that run on this machine now."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "market.actors.provider_host" in words and "--config" in words[:-1]:
            try:
                found.append(json.loads(Path(words[words.index("--config") + 1]).read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue  # another account's, or one that is just ending
    return found
