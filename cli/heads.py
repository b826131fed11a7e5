"""The heads of markets' logs that this home has seen (heads.json), and how a market is held to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.errors import CliError
from cli.settings import Settings

if TYPE_CHECKING:
    from market.client import Market
    from market.witness import Seen
    from storage.tree_heads import TreeHead

FILE = "heads.json"


def seen_of(settings: Settings, market: str) -> Seen | None:
    """What this home remembers of a market's log. Raises CliError where the file cannot be read."""
    from market.witness import Seen

    found = _read(settings).get(market)
    try:
        return None if found is None else Seen.parse(found)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(settings, error) from error


def witness(settings: Settings, market: Market, *, size: int | None = None) -> dict[str, Any]:
    """Ask for the head (of `size` records), hold it to what was seen, remember it: {head, seen_before}.

    seen_before: records of the newest head that was known. Raises CliError another_history.
    """
    from market.witness import AnotherHistory
    from storage.tree_heads import BadHead, NoSignatures, TreeHead

    try:
        head = TreeHead.parse(market.log(new=size)["head"])
        seen = seen_of(settings, head.market)
        head, now = _held_to(seen, market, head, _known_key(settings))
    except (AnotherHistory, BadHead) as error:
        remedy = f"ask its operator; if the market was restored from a backup, remove it from {settings.home / FILE}"
        raise CliError("another_history", str(error), remedy=remedy) from error
    except NoSignatures as error:
        raise CliError("no_signatures", str(error), remedy="pip install cryptography") from error
    _remember(settings, head.market, now)
    return {"head": head.to_json(), "seen_before": None if seen is None else seen.newest.size}


def _held_to(seen: Seen | None, market: Market, head: TreeHead, key: str | None) -> tuple[TreeHead, Seen]:
    """A head with what is remembered after it: the market proves that the smaller log is the beginning of the larger."""
    from market.witness import believe, path_of, recall
    from storage.tree_heads import TreeHead

    if seen is None or seen.newest.size == 0:
        return head, believe(seen, head, [], key)
    if head.size < seen.newest.size:
        return head, recall(seen, head, path_of(market.log(old=head.size, new=seen.newest.size)))
    answer = market.log(old=seen.newest.size, new=head.size)
    head = TreeHead.parse(answer["head"])
    return head, believe(seen, head, path_of(answer), key)


def _known_key(settings: Settings) -> str | None:
    """The key of this home's own market; only that one's is known from elsewhere."""
    return settings.market_public_key() if settings.url is None else None


def _read(settings: Settings) -> dict[str, Any]:
    from market.homes import read_json

    try:
        return dict(read_json(settings.home / FILE).get("markets", {}))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(settings, error) from error


def _remember(settings: Settings, market: str, seen: Seen) -> None:
    from market.homes import write_json

    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(settings.home / FILE, {"markets": {**_read(settings), market: seen.to_json()}}, mode=0o600)


def _unreadable(settings: Settings, error: Exception) -> CliError:
    return CliError("heads_unreadable", f"{settings.home / FILE}: {error}", remedy="put it right, or remove it")
