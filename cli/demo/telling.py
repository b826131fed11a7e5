"""How the demo is told: chapters, tables, the live picture, a plot. Silent with `--json` but for stderr."""

import sys
from typing import Any

from cli.arguments import exact_usd, usd
from cli.demo.outcome import Outcome
from cli.live import RunView
from cli.output import console, print_table, printable
from cli.picture import loss_curve, render
from cli.settings import Settings


class Teller:
    """Tells on stdout for people; on stderr, one line each, when stdout must hold one JSON document."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._quiet = settings.as_json
        self._screen = console(settings, stderr=self._quiet)
        self._live: Any = None
        self.view = RunView("")

    def chapter(self, title: str) -> None:
        """A headline."""
        self._screen.print(f"\n{title}", style="bold cyan")

    def say(self, line: str) -> None:
        """One line."""
        self._screen.print(f"  {printable(line)}", markup=False)

    def offers(self, found: list[dict[str, Any]]) -> None:
        """The offers table."""
        if not self._quiet:
            from cli.verbs.offers import COLUMNS, offer_row

            print_table(self._settings, COLUMNS, [offer_row(one) for one in found], title="$ torg offers")

    def plan(self, spec: dict[str, Any], quote: dict[str, Any]) -> None:
        """The plan table."""
        if not self._quiet:
            from cli.verbs.submit import show_plan

            show_plan(self._settings, spec, quote)

    def begin(self, view: RunView) -> None:
        """The live picture starts, where there is a terminal for it."""
        self.view = view
        self.chapter("Rounds")
        if not self._quiet and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(render(view, self._screen.width), console=self._screen, refresh_per_second=4)
            self._live.start()

    def fold(self, record: dict[str, Any]) -> None:
        """One event of the job."""
        lines = self.view.fold(record)
        self._show(lines)

    def happened(self, line: str) -> None:
        """Something that the demo did or measured itself."""
        self.view.happenings.append(line)
        self._show([f"▶ {line}"])

    def end(self) -> None:
        """The live picture stays as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, lines: list[str]) -> None:
        if self._live is not None:
            self._live.update(render(self.view, self._screen.width))
        else:
            for line in lines:
                self.say(line)

    def invoice(self, answer: dict[str, Any]) -> None:
        """The bill."""
        if not self._quiet:
            from cli.verbs.billing import show_invoice

            show_invoice(self._settings, answer)

    def losses(self, rounds: list[dict[str, Any]]) -> None:
        """A plot of the loss."""
        if not self._quiet:
            print(loss_curve([(one["round"], one["loss"]) for one in rounds], width=min(self._screen.width, 78)))

    def verdicts(self, outcome: Outcome, books: dict[str, Any], bundle: dict[str, Any], invoice: dict[str, Any]) -> None:
        """The sums and the checks."""
        self.say(
            f"billed {exact_usd(outcome.billed_nanos)} = earnings {exact_usd(outcome.provider_earnings_nanos)} + fee {exact_usd(outcome.fee_nanos)}"
        )
        self.say(
            f"metered but not charged (the work that died): {usd(outcome.refunded_nanos)}; left in escrow: {usd(outcome.escrow_left_nanos)}"
        )
        sound = "sound" if books["ok"] else f"NOT sound ({books['first_bad']})"
        self.say(f"books: {books['records']} records, head {str(books['head'])[:12]}…, {sound}")
        for name, told in (("provenance", bundle), ("invoice", invoice)):
            self.say(f"{name}: {'verified' if told['ok'] else 'NOT verified: ' + str(told['first_bad'])}")

    def verdict(self, outcome: Outcome) -> None:
        """The last line."""
        if outcome.failures:
            for failure in outcome.failures:
                self._screen.print(f"  ✗ {printable(failure)}", style="bold red", markup=False)
            return
        self._screen.print(
            f"\nHeld-out loss {outcome.loss_first:.3f} → {outcome.loss_last:.3f} in {outcome.rounds} rounds; a provider was killed, "
            f"the next round stood after {outcome.recovery_seconds:.1f} s, a newcomer trained after {outcome.replacement_seconds:.1f} s. "
            f"{outcome.seconds:.0f} s in all.",
            style="bold green",
        )  # fmt: skip
