"""Two members of a market that shows each another history find out as soon as one is handed what the other cosigned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from market.actors.head_watch import HeadWatch
from market.api.cosigned import CosignedHeads
from market.client import MarketUnreachable, Refused
from market.head_memory import HeadMemory, HeadsUnreadable
from market.witness import AnotherHistory
from storage.cosignatures import Cosignature, CosignedHead, cosign
from storage.merkle import Tree, leaf_hash
from storage.signing import new_signing_key, public_key_of
from storage.tree_heads import BadHead, TreeHead

KEY, ANNS, BOBS = new_signing_key(), new_signing_key(), new_signing_key()
NOW_MS = 1_795_000_000_000
TRUE = Tree(leaf_hash(bytes([number])) for number in range(40))
FORKED = Tree(leaf_hash(bytes([number if number < 12 else number + 100])) for number in range(40))


class Shown:
    """A market as one member is shown it; all of them share what is cosigned."""

    def __init__(self, cosigned: CosignedHeads, tree: Tree, size: int, member: str) -> None:
        self.cosigned, self.tree, self.size, self.member = cosigned, tree, size, member

    def log(self, *, old: int | None = None, new: int | None = None) -> dict[str, Any]:
        size = self.size if new is None else new
        answer: dict[str, Any] = {"head": TreeHead.signed("m", size, self.tree.root(size), NOW_MS, KEY).to_json()}
        if old is not None:
            answer["path"] = self._path(old, size)
        if new is None:
            others = self.cosigned.newest()
            answer["cosigned"] = [one.to_json() | {"path": self._path(one.head.size, size)} for one in others]
        return answer

    def cosign_head(self, head: Mapping[str, Any], *, public_key: str, at_s: int, signature: str) -> dict[str, Any]:
        self.cosigned.note(TreeHead.parse(head), Cosignature(self.member, public_key, at_s, signature))
        return {}

    def _path(self, old: int, new: int) -> list[str]:
        return [one.hex() for one in self.tree.consistency(old, new)] if old <= new else []


@pytest.fixture
def cosigned(tmp_path: Path) -> CosignedHeads:
    return CosignedHeads(tmp_path / "cosigned.json")


def memory(folder: Path, key: bytes = ANNS) -> HeadMemory:
    return HeadMemory(folder / "heads.json", lambda: key)


def test_a_head_is_remembered_cosigned_and_handed_on(tmp_path: Path, cosigned: CosignedHeads) -> None:
    ann, bob = memory(tmp_path / "ann"), memory(tmp_path / "bob", BOBS)
    assert ann.look(Shown(cosigned, TRUE, 10, "ann"), now_ms=NOW_MS).cosigned == ()
    found = bob.look(Shown(cosigned, TRUE, 20, "bob"), now_ms=NOW_MS)
    assert [(one.head.size, one.cosignatures[0].member) for one in found.cosigned] == [(10, "ann")]
    assert bob.look(Shown(cosigned, TRUE, 30, "bob"), now_ms=NOW_MS).seen_before == 20
    seen = bob.seen("m")
    assert seen is not None
    assert list(seen.roots) == [10, 20, 30], "ann's head is remembered too"
    kept = CosignedHeads(tmp_path / "cosigned.json").newest()
    assert [(one.head.size, one.cosignatures[0].public_key) for one in kept] == [
        (30, public_key_of(BOBS)), (10, public_key_of(ANNS)),
    ]  # fmt: skip
    assert not bob.alarms()


def test_a_fork_shown_to_two_is_found_by_the_first_that_sees_the_others_head(tmp_path: Path, cosigned: CosignedHeads) -> None:
    memory(tmp_path / "ann").look(Shown(cosigned, TRUE, 20, "ann"), now_ms=NOW_MS)
    bob = memory(tmp_path / "bob", BOBS)
    for size in (15, 20, 25):  # smaller than what ann saw, as large, larger
        with pytest.raises(AnotherHistory, match=r"ann \(key .*saw and cosigned"):
            bob.look(Shown(cosigned, FORKED, size, "bob"), now_ms=NOW_MS)
    assert bob.seen("m") is None, "what does not fit is not remembered"
    assert [one.cosignatures[0].member for one in cosigned.newest()] == ["ann"], "nor cosigned"
    evidence = bob.alarms()[-1]["heads"]
    assert {TreeHead.parse(one).root for one in evidence} == {FORKED.root(25).hex(), TRUE.root(20).hex()}
    for one in evidence:
        TreeHead.parse(one).check_signature()


def test_a_log_that_lost_records_is_an_alarm(tmp_path: Path, cosigned: CosignedHeads) -> None:
    ann = memory(tmp_path)
    ann.look(Shown(cosigned, TRUE, 20, "ann"), now_ms=NOW_MS)
    with pytest.raises(AnotherHistory, match="has 15 records now, and 20 were seen"):
        ann.look(Shown(cosigned, TRUE, 15, "ann"), now_ms=NOW_MS)
    for _ in range(2):
        with pytest.raises(AnotherHistory):
            ann.look(Shown(cosigned, FORKED, 25, "ann"), now_ms=NOW_MS)
    assert len(ann.alarms()) == 2, "the same sentence is kept once"


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"markets": {"m": {"newest": 7, "roots": {}}}}'):
        (tmp_path / "heads.json").write_text(content)
        with pytest.raises(HeadsUnreadable, match=r"heads\.json"):
            memory(tmp_path).seen("m")


def test_the_market_keeps_the_newest_of_each_member_and_no_other_word(tmp_path: Path, cosigned: CosignedHeads) -> None:
    for size in (20, 10, 30):
        head = TreeHead.signed("m", size, TRUE.root(size), NOW_MS, KEY)
        cosigned.note(head, cosign(head, "ann", 5, ANNS))
        assert [one.head.size for one in cosigned.newest()] == [max(20, size)]
    assert cosigned.newest(up_to=29) == []
    (known,) = cosigned.newest()
    with pytest.raises(BadHead, match="not cosigned"):
        cosigned.note(TreeHead.signed("m", 31, TRUE.root(31), NOW_MS, KEY), known.cosignatures[0])
    with pytest.raises(BadHead):
        CosignedHead.parse(known.to_json() | {"cosignatures": []})
    (tmp_path / "cosigned.json").write_text("{")
    assert CosignedHeads(tmp_path / "cosigned.json").newest() == [], "it begins anew"


def test_a_providers_host_looks_cosigns_and_says_aloud_what_does_not_fit(tmp_path: Path, cosigned: CosignedHeads) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    market = Shown(cosigned, TRUE, 20, "gpu-1")
    watch = HeadWatch(market, tmp_path, lambda event, **fields: said.append((event, fields)), lambda: NOW_MS)
    watch.look()
    market.size = 25
    watch.look()
    assert [one.head.size for one in cosigned.newest()] == [25]
    assert not said
    market.tree, market.size = FORKED, 30
    for _ in range(2):
        watch.look()
    assert [event for event, _ in said] == ["another_history"] * 2, "on every look, for as long as it does not fit"
    assert "does not begin with the 25" in said[0][1]["message"]
    assert [one.head.size for one in cosigned.newest()] == [25], "nothing of it is cosigned"
    market.tree = TRUE
    watch.look()
    assert len(said) == 2


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (MarketUnreachable("http://x", "away"), []),
        (Refused("books_restarting", "soon", status=503), []),
        (Refused("too_many_requests", "later", status=429), []),
        (Refused("key_revoked", "the key of eve was revoked", status=401), ["unwitnessed"]),
    ],
)
def test_what_passes_is_not_said_and_what_does_not_is(tmp_path: Path, trouble: Exception, says: list[str]) -> None:
    said: list[str] = []

    class Away:
        def log(self, *, old: int | None = None, new: int | None = None) -> dict[str, Any]:
            raise trouble

        def cosign_head(self, head: Mapping[str, Any], *, public_key: str, at_s: int, signature: str) -> dict[str, Any]:
            raise AssertionError("nothing was seen")

    HeadWatch(Away(), tmp_path, lambda event, **_: said.append(event), lambda: NOW_MS).look()
    assert said == says
