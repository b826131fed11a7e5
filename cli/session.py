"""From settings to a market that answers, and from its refusals to how a command ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.errors import CliError, Exit, unreachable
from cli.settings import Settings

if TYPE_CHECKING:
    from market.client import Market

ROLES = ("customer", "provider", "operator")
TIMEOUT_S = 30.0
PATIENCE_S = 1.0
STARTS_ONE = "`torg up` starts one"


def connect(settings: Settings, role: str) -> "Market":
    """The market as `role` for one short question: no connection pool, nothing imported that costs time."""
    from cli.errors import usage
    from cli.quick import QuickMarket

    if role not in ROLES:
        raise usage(f"--role {role!r} is not known", field="--role", remedy=f"one of {', '.join(ROLES)}")
    url, key, ca = settings.market_url(), settings.key_for(role), settings.trusted()
    return QuickMarket(url, key, timeout_s=TIMEOUT_S, patience_s=PATIENCE_S, ca=ca)


def connect_pooled(settings: Settings, role: str, *, patience_s: float = PATIENCE_S) -> "Market":
    """The market as `role` for uploads, streams and many calls."""
    from market.client import Market

    url, key, ca = settings.market_url(), settings.key_for(role), settings.trusted()
    return Market(url, key, timeout_s=TIMEOUT_S, patience_s=patience_s, ca=ca)


@contextmanager
def market_errors() -> Iterator[None]:
    """Turn what the SDK raises into how a command ends: refused is 3, away is 4, a market's own failure is 1."""
    from market.wire import MarketUnreachable, Refused

    try:
        yield
    except Refused as error:
        code = Exit.FAILED if error.status >= 500 and error.status not in (503, 507) else Exit.REFUSED
        raise CliError(error.code, error.message, error.field, error.remedy, code) from error
    except MarketUnreachable as error:
        remedy = error.remedy or STARTS_ONE
        raise unreachable(f"no market answers at {error.url} ({error.reason})", remedy) from error


@contextmanager
def once(given: str | None, kind: str) -> Iterator[str]:
    """The id of a request: the one that was given, or a new one. Where it stays open whether the market has done it, its error
    says by which id it is asked for again: with another it would be done twice."""
    from market.wire import MarketUnreachable, Refused

    made = given or new_id(kind)
    again = f"--id {made}, which counts once"
    try:
        yield made
    except Refused as refused:
        if refused.remedy is not None:
            refused.remedy = refused.remedy.replace("the same id", again)
        raise
    except MarketUnreachable as away:
        away.remedy = f"{away.remedy or STARTS_ONE}; ask again with {again}"
        raise


def new_id(kind: str) -> str:
    """An id made by the caller, so that a retry is harmless: `job-1f2e3d4c5b`."""
    import secrets

    return f"{kind}-{secrets.token_hex(5)}"
