"""The demo's processes: a market and its providers, all of them descendants of this one, all ended with it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from cli.host import become_subreaper, end_descendants
from cli.settings import Settings

END_S = 8.0
PAUSE_S = 0.1


class Stage:
    """A temp home with a market in it. Leaving the `with` block ends every process and removes the folder."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.root = Path(tempfile.mkdtemp(prefix="torg-demo-"))
        self.home = self.root / "market"
        self.settings = Settings(self.home, None, None, as_json=False, color=False)
        self._providers: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Stage":
        become_subreaper()
        self.home.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of it running.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for process in self._providers.values():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            _stop_quietly(self.home)
            end_descendants(END_S)
            for process in self._providers.values():
                process.wait()
            if not self.keep:
                shutil.rmtree(self.root, ignore_errors=True)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def up(self) -> dict[str, Any]:
        """Start the market; returns when its API answers."""
        from cli.market_processes import start_market

        return start_market(self.home, host="127.0.0.1", port=None, ray="embedded")

    def provide(self, name: str, price_usd: str, region: str, invite: str) -> None:
        """Start `torg provide` for one core, in a home of its own, as a stranger would."""
        home = self.root / name
        home.mkdir()
        code = home / "invite"
        code.touch(mode=0o600)
        code.write_text(invite, encoding="ascii")
        command = [
            sys.executable, "-m", "cli", "--home", str(home), "provide", "--price", price_usd, "--gpus", "cpu:1",
            "--region", region, "--name", name, "--invite-file", str(code), "--no-selftest",
        ]  # fmt: skip
        with (self.root / f"{name}.log").open("wb") as log:
            self._providers[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )

    def ended(self) -> dict[str, str]:
        """Providers that ended by themselves, with the last line that they wrote."""
        return {
            name: self.last_line(name)
            for name, process in self._providers.items()
            if process.poll() not in (None, -signal.SIGKILL)
        }

    def last_line(self, name: str) -> str:
        """The newest line of a provider's output."""
        lines = (self.root / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def kill(self, name: str) -> list[int]:
        """SIGKILL to the whole process tree of a provider; the ids that were killed."""
        process = self._providers[name]
        top = psutil.Process(process.pid)
        family = [top, *top.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait()
        return [one.pid for one in family]

    def left(self) -> list[int]:
        """Processes of ours that still live."""
        return [one.pid for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def wait_until(ready: Any, timeout_s: float, what: str) -> Any:
    """Ask `ready` until it answers something true; TimeoutError names `what` was missing."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(PAUSE_S)
    return found


def _stop_quietly(home: Path) -> None:
    from cli.errors import CliError
    from cli.market_processes import stop_market

    # Whatever is not stopped in order is a descendant of ours and is ended the hard way right after.
    with contextlib.suppress(CliError, OSError):
        stop_market(home)


def _environment() -> Mapping[str, str]:
    foreign = ("TORG_HOME", "TORG_URL", "TORG_KEY")
    return {name: value for name, value in os.environ.items() if name not in foreign}
