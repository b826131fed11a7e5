"""The heads of markets' logs that this home has seen (heads.json), and how a market is held to them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import CliError, usage
from cli.settings import Settings

if TYPE_CHECKING:
    from market.client import Market
    from market.head_memory import HeadMemory
    from market.witness import Seen
    from storage.tree_heads import TreeHead

FILE, KEY = "heads.json", "cosigner.key"


def memory_of(home: Path) -> HeadMemory:
    """What a home remembers; its key is made when it first cosigns."""
    from market.head_memory import HeadMemory
    from market.homes import kept_key

    return HeadMemory(home / FILE, lambda: kept_key(home / KEY))


def seen_of(settings: Settings, market: str) -> Seen | None:
    """What this home remembers of a market's log. Raises CliError where the file cannot be read."""
    from market.head_memory import HeadsUnreadable

    try:
        return memory_of(settings.home).seen(market)
    except HeadsUnreadable as error:
        raise _unreadable(error) from error


def alarms_of(settings: Settings) -> list[dict[str, Any]]:
    """[{file, market, at_ms, told, heads}]: what did not fit, as this home and its providers' folders remember it."""
    from market.head_memory import HeadsUnreadable

    files = [settings.home / FILE, *sorted((settings.home / "providers").glob(f"*/{FILE}"))]
    try:
        return [{"file": str(file), **alarm} for file in files for alarm in memory_of(file.parent).alarms()]
    except HeadsUnreadable as error:
        raise _unreadable(error) from error


def witness(
    settings: Settings, market: Market, *, size: int | None = None, other: TreeHead | None = None
) -> dict[str, Any]:
    """Ask for the head (of `size` records), hold it to what was seen, remember and cosign it: {head, seen_before, cosigned}.

    seen_before: records of the newest head that was known. other: a head that somebody else was shown, which must be
    this one. Raises CliError another_history.
    """
    from market.head_memory import HeadsUnreadable
    from market.witness import AnotherHistory
    from storage.tree_heads import BadHead, NoSignatures

    memory, now_ms = memory_of(settings.home), time.time_ns() // 1_000_000
    try:
        found = memory.look(market, now_ms=now_ms, size=size, public_key=_known_key(settings))
        if other is not None:
            _same(memory, found.head, other, now_ms)
    except (AnotherHistory, BadHead) as error:
        kept = f"; {memory.file} keeps the evidence" if isinstance(error, AnotherHistory) else ""
        remedy = f"ask its operator, and show other members{kept}; if the market was restored from a backup, remove that file"
        raise CliError("another_history", str(error), remedy=remedy) from error
    except HeadsUnreadable as error:
        raise _unreadable(error) from error
    except NoSignatures as error:
        raise CliError("no_signatures", str(error), remedy="pip install cryptography") from error
    cosigned = [one.to_json() for one in found.cosigned]
    return {"head": found.head.to_json(), "seen_before": found.seen_before, "cosigned": cosigned}


def read_head(file: Path) -> TreeHead:
    """The head that somebody else was shown: a file of `torg head --json`, or of a bundle."""
    from storage.tree_heads import BadHead, TreeHead

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content = content.get("body", content)
        return TreeHead.parse(content.get("head", content))
    except (OSError, ValueError, AttributeError, BadHead) as error:
        raise usage(f"{file} holds no head: {error}", field="--against", remedy="what `torg head --json` prints") from error


def _same(memory: HeadMemory, head: TreeHead, other: TreeHead, now_ms: int) -> None:
    """Whether the market shows us what it showed somebody else. Raises AnotherHistory, BadHead."""
    from market.witness import AnotherHistory
    from storage.tree_heads import BadHead

    other.check_signature()
    if (other.market, other.public_key) != (head.market, head.public_key):
        raise BadHead(f"the other head is of {other.market}, signed by {other.public_key[:16]}…, not of {head.market}")
    if other.root != head.root:
        error = AnotherHistory(f"the market has shown another log of {head.size} records to somebody else", head, other)
        memory.alarm(head.market, error, now_ms)
        raise error


def _known_key(settings: Settings) -> str | None:
    """The key of this home's own market; only that one's is known from elsewhere."""
    return settings.market_public_key() if settings.url is None else None


def _unreadable(error: Exception) -> CliError:
    return CliError("heads_unreadable", str(error), remedy="put it right, or remove it")
