"""`torg up` and `torg down` on the market's supervisor, with its complaints as this program's errors."""

from pathlib import Path
from typing import Any

from cli.errors import CliError, Exit


def start_market(
    home: Path, *, host: str, port: int | None, ray: str, ray_token: Path | None = None,
    tls: tuple[Path, Path] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Start the market of `home`, or find the one that runs: {url, host, port, supervisor_pid, home, already}."""
    supervisor = _supervisor()
    embedded, none = ray == "embedded", ray == "none"
    try:
        found = supervisor.start(
            home, host=host, port=port, ray=None if embedded or none else ray, ray_token=ray_token, no_ray=none,
            tls=supervisor.TlsFiles(*tls) if tls else None,
        )  # fmt: skip
    except supervisor.StartFailed as failed:
        line, _, rest = failed.message.partition("\n")
        wrong = failed.code in ("port_in_use", "address_unusable", "tls_unusable", "tls_failed", "market_moved", "home_newer", "home_damaged")
        raise CliError(
            failed.code, line, failed.field, failed.remedy or (rest.strip().splitlines() or [None])[-1],
            Exit.REFUSED if wrong else Exit.FAILED,
        ) from failed  # fmt: skip
    except OSError as error:
        raise CliError("home_unusable", f"{error.filename or home}: {error.strerror}", "--home") from error
    return {
        "url": found.url, "host": found.host, "port": found.port, "supervisor_pid": found.supervisor_pid,
        "home": found.home, "already": not found.fresh,
    }  # fmt: skip


def stop_market(home: Path) -> dict[str, Any]:
    """End the market of `home`: {was_running, home}. Harmless when nothing runs."""
    try:
        ran = _supervisor().stop(home)
    except TimeoutError as error:
        raise CliError("stop_failed", str(error), None, f"see {home / 'logs'}") from error
    return {"was_running": bool(ran), "home": str(home)}


def _supervisor() -> Any:
    try:
        from market import supervisor
    except ImportError as missing:
        raise CliError(
            "extra_missing", f"running a market needs {missing.name}", None, "pip install 'torg[node]'"
        ) from missing
    return supervisor
