"""What a client remembers of a market's log, and how it finds that another history is shown to it now.

`Seen` is one market's part of the file `heads.json` in a client's home: the key that signed, the newest head, and the roots
of the heads before. A new head is believed when that key signed it and it begins with everything that was seen. Heads that
others cosigned (storage/cosignatures.py) are held to it too: a market that shows two members two histories is found out as
soon as one of them sees the other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from storage.cosignatures import CosignedHead
from storage.merkle import is_consistent
from storage.tree_heads import BadHead, TreeHead

MOST_ROOTS = 1000


class AnotherHistory(Exception):
    """The market shows a log that does not begin with what was seen of it; the text says how, `heads` are the evidence."""

    def __init__(self, told: str, *heads: TreeHead) -> None:
        super().__init__(told)
        self.heads = heads


@dataclass(frozen=True, slots=True)
class Seen:
    """`newest` is the largest head that was believed; `roots` are by size, those of other heads too."""

    newest: TreeHead
    roots: Mapping[int, str]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """From the file. Raises BadHead, KeyError, TypeError, ValueError."""
        return cls(TreeHead.parse(value["newest"]), {int(size): str(root) for size, root in value["roots"].items()})

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {"newest": self.newest.to_json(), "roots": {str(size): root for size, root in sorted(self.roots.items())}}


def believe(seen: Seen | None, head: TreeHead, path: Sequence[bytes], public_key: str | None) -> Seen:
    """What is remembered after this head. path: the proof that it begins with `seen.newest`.

    public_key: hex, the market's where it is known from elsewhere; else the first head's key is believed for ever.
    Raises AnotherHistory, BadHead, NoSignatures.
    """
    head.check_signature()
    key = public_key or (None if seen is None else seen.newest.public_key)
    if key is not None and head.public_key != key:
        raise AnotherHistory(f"the head is signed by the key {head.public_key}, and the market's is {key}", head)
    if seen is None:
        return Seen(head, {head.size: head.root})
    before = seen.newest
    if head.size < before.size:
        raise AnotherHistory(f"the log has {head.size} records now, and {before.size} were seen before", before, head)
    if not is_consistent(before.size, bytes.fromhex(before.root), head.size, bytes.fromhex(head.root), path):
        told = f"the log of {head.size} records does not begin with the {before.size} that were seen before"
        raise AnotherHistory(told, before, head)
    return replace(seen, newest=head, roots=_with(seen, head))


def recall(seen: Seen, head: TreeHead, path: Sequence[bytes]) -> Seen:
    """What is remembered after a head that is older than the newest. path: the proof that `seen.newest` begins with it.

    Raises AnotherHistory, BadHead, NoSignatures.
    """
    head.check_signature()
    newest = seen.newest
    if head.public_key != newest.public_key:
        told = f"the head is signed by the key {head.public_key}, and the market's is {newest.public_key}"
        raise AnotherHistory(told, newest, head)
    if not is_consistent(head.size, bytes.fromhex(head.root), newest.size, bytes.fromhex(newest.root), path):
        told = f"the log of {newest.size} records that was seen does not begin with this one of {head.size}"
        raise AnotherHistory(told, newest, head)
    return replace(seen, roots=_with(seen, head))


def hold(seen: Seen, cosigned: CosignedHead, path: Sequence[bytes]) -> Seen:
    """What is remembered after a head that others cosigned. path: the proof that `seen.newest` begins with it.

    Raises AnotherHistory, BadHead, NoSignatures.
    """
    cosigned.check_signatures()
    newest, other = seen.newest, cosigned.head
    who = ", ".join(f"{one.member} (key {one.public_key[:16]}…)" for one in cosigned.cosignatures)
    if (other.market, other.public_key) != (newest.market, newest.public_key):
        raise BadHead(f"what {who} cosigned is a head of {other.market} with the key {other.public_key}")
    if not is_consistent(other.size, bytes.fromhex(other.root), newest.size, bytes.fromhex(newest.root), path):
        begins = f"the log of {newest.size} records does not begin with the {other.size} that {who} saw and cosigned"
        lost = f"the log has {newest.size} records now, and {who} saw and cosigned {other.size}"
        told = lost if other.size > newest.size else begins
        raise AnotherHistory(told, newest, other)
    return replace(seen, roots=_with(seen, other))


def _with(seen: Seen, head: TreeHead) -> dict[int, str]:
    return dict(sorted({**seen.roots, head.size: head.root}.items())[-MOST_ROOTS:])


def path_of(answer: Mapping[str, Any]) -> list[bytes]:
    """The proof in an answer of GET /v1/log. Raises BadHead."""
    try:
        return [bytes.fromhex(one) for one in answer.get("path", [])]
    except (TypeError, ValueError) as error:
        raise BadHead("the proof is not a list of hashes in hex") from error
