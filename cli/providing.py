"""What a provider sees of its own machine at work: the host's JSON lines as a status line and a log."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from cli.arguments import usd
from cli.errors import CliError, Exit
from cli.output import console, document, printable
from cli.settings import Settings


class HostTeller:
    """Told by `hear` from the thread that reads the host; shown on a terminal as one line that renews itself."""

    def __init__(self, settings: Settings, config: dict[str, Any]) -> None:
        self._settings, self._config = settings, config
        self._screen = console(settings, stderr=settings.as_json)
        self._live: Any = None
        self._refusal: dict[str, Any] | None = None
        self._leases: dict[str, str] = {}
        self._earned_nanos = 0
        self._state = "starting"
        self._alarm = ""

    def __enter__(self) -> "HostTeller":
        if sys.stdout.isatty() and not self._settings.as_json:
            from rich.live import Live

            self._live = Live(self._line(), console=self._screen, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def hear(self, told: dict[str, Any]) -> None:
        """One line of the host: {"event": …, …}."""
        event = str(told.get("event"))
        said = self._take(event, told)
        if said:
            self._screen.print(printable(said), markup=False)
        if self._live is not None:
            self._live.update(self._line())

    def _take(self, event: str, told: dict[str, Any]) -> str:
        if event == "earned":
            self._earned_nanos = told["nanos"]
            return ""
        if event == "lease":
            return self._lease(told)
        if event == "refused":
            self._refusal = told
            return ""
        if event in _STATES:
            self._state = event
        if event == "another_history":
            self._alarm = str(told["message"])
        if event == "resumed":
            self._state = "ready"
        if event == "ready":
            price = usd(self._config["price_nanos_per_gpu_hour"])
            return f"offered: {told['id']}  {told['gpus']} × {told['gpu']} at {price}/h, isolation {told['isolation']}"
        if event == "selftest" and "held" in told:
            tried = told["held"] + len(told["escaped"])
            got = f"; got out: {', '.join(told['escaped'])} (torg provider selftest tells more)" if told["escaped"] else ""
            return f"self-test: {told['held']} of {tried} attempts to break out held; isolation {told['isolation']}{got}"
        if event == "measured" and "doubt" in told:
            return f"measured again, and in doubt: {told['doubt']}" if told["doubt"] else ""
        message = f": {told['message']}" if told.get("message") else ""
        return _SAYINGS.get(event, "") + message

    def _lease(self, told: dict[str, Any]) -> str:
        lease, state = str(told["lease"]), str(told["state"])
        if state == "started":
            self._leases[lease] = str(told["job"])
            return f"{lease}: trains {told['job']} (pid {told['pid']})"
        self._leases.pop(lease, None)
        why = told.get("reason") or told.get("message")
        return f"{lease}: {state}" + (f" ({why})" if why else "") + f", earned so far {usd(self._earned_nanos)}"

    def _line(self) -> str:
        name, price = self._config["name"], usd(self._config["price_nanos_per_gpu_hour"])
        return printable(
            f"{name}  {self._state}  {price}/h  leases {len(self._leases)}  earned {usd(self._earned_nanos)}"
            + ("  THE MARKET SHOWS ANOTHER HISTORY" if self._alarm else "")
        )

    def end(self, code: int, log_file: Path) -> None:
        """Say how the host ended; raises CliError unless it drained."""
        refusal = self._refusal
        if code == Exit.REFUSED and refusal is not None:
            raise CliError(
                str(refusal.get("code") or "refused"),
                str(refusal["message"]),
                None,
                refusal.get("remedy"),
                Exit.REFUSED,
            )
        if code != Exit.DONE:
            message = f"the provider's host process ended with {code}: {_last_line(log_file)}"
            raise CliError("host_died", message, None, f"see {log_file}")
        if self._settings.as_json:
            told = {"offer": self._config["offer"], "state": "drained", "earned_nanos": self._earned_nanos}
            document(told | {"another_history": self._alarm or None})
        else:
            self._screen.print(f"drained; earned {usd(self._earned_nanos)}; nothing of it runs any more", markup=False)


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


_STATES = ("waiting", "joined", "ready", "away", "draining", "drained", "paused")
_SAYINGS = {
    "waiting": "waiting for the market",
    "joined": "joined the market's Ray cluster",
    "environments": "commands get no environments of their own here",
    "selftest": "the self-test of the sandbox could not be made",
    "measured": "a measurement that the market asked for could not be made or told",
    "another_history": "THE MARKET SHOWS ANOTHER HISTORY THAN BEFORE; its head is neither believed nor cosigned",
    "unwitnessed": "the head of the market's log could not be looked at",
    "away": "the market is away; waiting for it",
    "back": "the market is back",
    "over": "its time is over",
    "withdrawn": "its offer was withdrawn",
    "draining": "draining: no new leases, the running ones end at their next round",
    "paused": "paused",
    "resumed": "offered again",
    "untold": "the market does not know it yet",
    "restart": "starting again",
    "rejoin": "the market's Ray cluster is a new one; joining it",
}
