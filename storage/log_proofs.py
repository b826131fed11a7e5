"""Events of the market's log with the proof of each, as they travel in a bundle, and the checks of them. Standard library.

    "head": {a signed tree head},
    "records": [{"number", "at_ms", "count", "root", "path": [...],
                 "events": [{"ordinal", "salt", "event", "path": [...]}...]}...],
    "hashes": [hex...]

A path is a list of places in `hashes`, from the leaf up: many paths share their upper hashes. Refusals have a code each:
`wrong_market`, `stranger`, `bad_head`, `another_history`, `older_head`, `no_events`, `empty_proof`, `not_in_log`, `not_in_record`,
`out_of_order`, `bad_cosignature`, `not_cosigned`.

Beside the signed body a bundle may have `cosigned`: heads of the log that others saw (storage/cosignatures.py), each with `path`,
the hashes (hex) that prove that the bundle's log begins with it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.checks import Examination, Wrong, check_digest, check_form, check_signature, demand
from storage.cosignatures import CosignedHead
from storage.merkle import is_consistent, is_included, root_from_inclusion
from storage.transparency import ShownRecord, event_leaf, record_leaf
from storage.tree_heads import BadHead, NoSignatures, TreeHead

_BESIDE = frozenset({"cosigned"})
Json = dict[str, Any]


def pack(shown: Sequence[ShownRecord]) -> Json:
    """{records, hashes} of what the log shows."""
    hashes: dict[str, int] = {}

    def places(path: Sequence[bytes]) -> list[int]:
        return [hashes.setdefault(one.hex(), len(hashes)) for one in path]

    records = [
        {
            "number": record.number, "at_ms": record.at_ms, "count": record.events, "root": record.events_root.hex(),
            "path": places(record.path),
            "events": [
                {"ordinal": one.ordinal, "salt": one.salt.hex(), "event": one.event, "path": places(one.path)}
                for one in record.shown
            ],
        }
        for record in shown
    ]  # fmt: skip
    return {"records": records, "hashes": list(hashes)}


def events_of(body: Mapping[str, Any]) -> list[tuple[int, Json]]:
    """(at_ms, event) of everything that a bundle shows, in the log's order."""
    return [(record["at_ms"], one["event"]) for record in body["records"] for one in record["events"]]


@dataclass(frozen=True, slots=True)
class Logged:
    """An event and where it stands: the record's number from 1, its place in the record from 0, the record's time."""

    record: int
    ordinal: int
    at_ms: int
    event: Json

    @property
    def place(self) -> tuple[int, int]:
        """What orders events."""
        return self.record, self.ordinal


def logged(body: Mapping[str, Any]) -> Iterator[Logged]:
    """Everything that a bundle shows, with its places."""
    for record in body["records"]:
        for one in record["events"]:
            yield Logged(record["number"], one["ordinal"], record["at_ms"], one["event"])


@dataclass(frozen=True, slots=True)
class Known:
    """What whoever checks a bundle knows from elsewhere.

    public_key: hex, who must have signed it; without, a signature only proves that the bundle was made by whoever owns the key
    it names. seen: roots (hex) by size as text, of heads of its market that were met before. witnesses: keys (hex) of others who
    must have cosigned a head that holds every event shown.
    """

    public_key: str | None = None
    seen: Mapping[str, str] = field(default_factory=dict)
    witnesses: Collection[str] = ()


def check_log_proof(examined: Examination, bundle: object, format: str, names: set[str], known: Known) -> bool:
    """What every bundle of the log must hold before its own content counts: form, digest, signature, head, history, inclusion,
    cosigned.

    Whether it has the form of such a bundle at all, so that its body can be read; what else fails is in `examined`.
    """
    if not examined.check("format", lambda: check_form(bundle, format, names, _BESIDE)):
        return False
    whole: Any = bundle
    examined.check("digest", lambda: check_digest(whole))
    examined.check("signature", lambda: check_signature(whole, format, known.public_key))
    examined.check("head", lambda: check_head(whole, known.public_key))
    examined.check("history", lambda: check_history(whole["body"], known.seen))
    examined.check("inclusion", lambda: check_inclusion(whole["body"]))
    examined.check("cosigned", lambda: check_cosigned(whole, known))
    return True


def check_head(bundle: Mapping[str, Any], public_key: str | None) -> str:
    """Whether the head is of the bundle's market and signed by whoever signed the bundle."""
    head = TreeHead.parse(bundle["body"]["head"])
    demand(head.market == bundle["body"]["market"], f"the head is of the market {head.market}", "wrong_market")
    signature = bundle["signature"]
    owner = public_key or (head.public_key if signature is None else str(signature["public_key"]))
    demand(head.public_key == owner, f"the head is signed by {head.public_key}, the bundle by {owner}", "stranger")
    try:
        head.check_signature()
    except BadHead as bad:
        demand(False, str(bad), "bad_head")
    except NoSignatures as missing:
        demand(public_key is None, f"{missing}, so the head's signature cannot be checked", "no_cryptography")
        return f"{head.size} records; its signature was skipped: {missing}"
    return f"the market's log of {head.size} records, signed"


def check_history(body: Mapping[str, Any], seen: Mapping[str, str]) -> str:
    """Whether the head fits `seen`: roots (hex) by size as text, of heads of this market that were met before.

    An older head that was never met cannot be held to the newest one offline: its market may be showing a history that it
    has left. A newer one can: the market proves its way to it when it is asked (market/witness.py).
    """
    head = TreeHead.parse(body["head"])
    if not seen:
        return "no head of this market has been seen here before"
    known = seen.get(str(head.size))
    told = f"this home has seen the root {known} for {head.size} records, and not {head.root}"
    demand(known in (None, head.root), told, "another_history")
    if known is not None:
        return "the head is one that was seen here before"
    newest = max(int(size) for size in seen)
    told = f"the head has {head.size} records, and this home has seen one of {newest}: it may be of a history that was left"
    demand(head.size > newest, f"{told}; `torg head --size {head.size}` asks the market to prove it", "older_head")
    return f"newer than the newest head seen here ({newest} records); `torg head` asks the market to prove that they agree"


def check_cosigned(bundle: Mapping[str, Any], known: Known) -> str:
    """Whether the log begins with every head that others cosigned, and those that are asked for saw every event shown."""
    head, last = TreeHead.parse(bundle["body"]["head"]), max((one["number"] for one in bundle["body"]["records"]), default=0)
    seen_by: dict[str, int] = {}
    told, skipped = [], ""
    for row in bundle.get("cosigned", []):
        try:
            one = CosignedHead.parse({name: row[name] for name in ("head", "cosignatures")})
            one.check_signatures()
        except BadHead as bad:
            raise Wrong(str(bad), "bad_cosignature") from bad
        except NoSignatures as missing:
            demand(not known.witnesses, f"{missing}, so cosignatures cannot be checked", "no_cryptography")
            skipped = f"; their signatures were skipped: {missing}"
        size, root = one.head.size, one.head.root
        owner = (one.head.market, one.head.public_key) == (head.market, head.public_key)
        demand(owner, f"the cosigned head of {size} records is of {one.head.market}, key {one.head.public_key}", "stranger")
        path = [bytes.fromhex(each) for each in row["path"]]
        fits = is_consistent(size, bytes.fromhex(root), head.size, bytes.fromhex(head.root), path)
        fits = fits and known.seen.get(str(size)) in (None, root)
        who = [f"{each.member} (key {each.public_key[:16]}…)" for each in one.cosignatures]
        demand(fits, f"the log does not begin with the {size} records that {', '.join(who)} saw", "another_history")
        told.append(f"{', '.join(who)} saw {size} of {head.size} records")
        for each in one.cosignatures:
            seen_by[each.public_key] = max(size, seen_by.get(each.public_key, 0))
    for key in known.witnesses:
        short = f"the key {key[:16]}… has cosigned {seen_by.get(key, 0)} records, and the events shown end at record {last}"
        demand(seen_by.get(key, 0) >= last, short, "not_cosigned")
    if not told:
        return "nobody but the market says that it saw this log"
    whole = sum(size >= last for size in seen_by.values())
    return f"{'; '.join(told)}; {whole} of them saw every event shown{skipped}"


def check_inclusion(body: Mapping[str, Any]) -> str:
    """Whether every event is in its record, every record in the log of the head, and all of them in order."""
    head, hashes = TreeHead.parse(body["head"]), [bytes.fromhex(one) for one in body["hashes"]]
    before, events = (0, -1), 0
    demand(bool(body["records"]), "the bundle shows no event of the log", "no_events")
    for record in body["records"]:
        number, root = record["number"], bytes.fromhex(record["root"])
        leaf = record_leaf(number, record["at_ms"], record["count"], root)
        demand(bool(record["path"]) or head.size == 1, f"record {number}: its proof is empty", "empty_proof")
        path = [hashes[place] for place in record["path"]]
        wanted = bytes.fromhex(head.root)
        there = is_included(leaf, number - 1, head.size, path, wanted)
        demand(there, f"record {number} is not in the log of the head", "not_in_log")
        for one in record["events"]:
            place = (number, one["ordinal"])
            where = f"event {one['ordinal']} of record {number}"
            demand(place > before, f"{where} does not follow the one before it", "out_of_order")
            before, events = place, events + 1
            demand(bool(one["path"]) or record["count"] == 1, f"{where}: its proof is empty", "empty_proof")
            inner = [hashes[at] for at in one["path"]]
            found = root_from_inclusion(event_leaf(bytes.fromhex(one["salt"]), one["event"]), one["ordinal"], record["count"], inner)
            demand(found == root, f"{where} is not what the record holds", "not_in_record")
    return f"{events} events of {len(body['records'])} records are in the log"
