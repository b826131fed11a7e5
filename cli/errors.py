"""How a command ends when it does not succeed: exit codes, one clear line, one JSON document."""

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes that scripts rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


@dataclass(slots=True)
class CliError(Exception):
    """A command that ends early; `main` prints it and exits with `exit_code`."""

    code: str
    message: str
    field: str | None = None
    remedy: str | None = None
    exit_code: Exit = Exit.FAILED

    def line(self) -> str:
        """One line for stderr: what is wrong, where, and what to do about it."""
        where = "" if not self.field or self.field in self.message else f"{self.field}: "
        remedy = f" ({self.remedy})" if self.remedy else ""
        return " ".join(f"torg: {where}{self.message}{remedy}".split())

    def document(self) -> dict[str, object]:
        """The `--json` form, with the same four fields as the market's problem documents."""
        return {"error": {"code": self.code, "message": self.message, "field": self.field, "remedy": self.remedy}}


def usage(message: str, *, field: str | None = None, remedy: str | None = None, code: str = "usage") -> CliError:
    """The command line itself is wrong: exit code 2."""
    return CliError(code, message, field, remedy, Exit.USAGE)


def refused(code: str, message: str, *, field: str | None = None, remedy: str | None = None) -> CliError:
    """The command was understood and declined: exit code 3."""
    return CliError(code, message, field, remedy, Exit.REFUSED)


def unreachable(message: str, remedy: str | None = None) -> CliError:
    """No market answers: exit code 4."""
    return CliError("market_unreachable", message, None, remedy, Exit.UNREACHABLE)
