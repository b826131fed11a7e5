"""A client finds out when a market shows it another history than before."""

from typing import Any

import pytest

from market.witness import AnotherHistory, Seen, believe, hold, path_of, recall
from storage.cosignatures import CosignedHead, cosign
from storage.merkle import Tree, leaf_hash
from storage.provenance import new_signing_key, public_key_of
from storage.tree_heads import BadHead, TreeHead

KEY, OTHER = new_signing_key(), new_signing_key()
TRUE = Tree(leaf_hash(bytes([number])) for number in range(20))
REWRITTEN = Tree(leaf_hash(bytes([number if number != 3 else 99])) for number in range(20))


def head(size: int, tree: Tree = TRUE, key: bytes = KEY) -> TreeHead:
    return TreeHead.signed("m", size, tree.root(size), size, key)


def test_a_log_that_grows_is_believed_and_remembered() -> None:
    seen = believe(None, head(7), [], public_key_of(KEY))
    seen = believe(seen, head(7), [], None)
    seen = believe(seen, head(15), TRUE.consistency(7, 15), None)
    assert (seen.newest.size, list(seen.roots)) == (15, [7, 15])
    assert Seen.parse(seen.to_json()) == seen


def test_an_empty_log_is_the_beginning_of_all() -> None:
    assert believe(believe(None, head(0), [], None), head(4), [], None).newest.size == 4


@pytest.mark.parametrize(
    ("shown", "path", "says"),
    [
        (head(15, REWRITTEN), REWRITTEN.consistency(7, 15), "does not begin with the 7"),
        (head(7, REWRITTEN), [], "does not begin with the 7"),
        (head(15), [], "does not begin with the 7"),
        (head(5), [], "has 5 records now, and 7 were seen"),
        (head(15, key=OTHER), TRUE.consistency(7, 15), "signed by the key"),
    ],
)
def test_another_history_is_named(shown: TreeHead, path: list[bytes], says: str) -> None:
    with pytest.raises(AnotherHistory, match=says):
        believe(believe(None, head(7), [], None), shown, path, None)


def test_an_older_head_is_known_when_the_newest_begins_with_it() -> None:
    seen = believe(None, head(15), [], None)
    assert recall(seen, head(7), TRUE.consistency(7, 15)).roots == {7: head(7).root, 15: head(15).root}
    for shown in (head(7, REWRITTEN), head(7, key=OTHER)):
        with pytest.raises(AnotherHistory):
            recall(seen, shown, TRUE.consistency(7, 15))


def test_who_is_known_from_elsewhere_must_have_signed_the_first_head_too() -> None:
    with pytest.raises(AnotherHistory, match="signed by the key"):
        believe(None, head(7), [], public_key_of(OTHER))


def test_what_is_no_proof_is_no_head() -> None:
    with pytest.raises(BadHead):
        believe(None, TreeHead.parse(head(7).to_json() | {"size": 8}), [], None)
    bad: Any
    for bad in ({"path": ["zz"]}, {"path": 7}, {"path": [None]}):
        with pytest.raises(BadHead):
            path_of(bad)


def test_what_others_cosigned_is_held_to_what_is_shown_here() -> None:
    theirs = CosignedHead(head(7), (cosign(head(7), "bob", 5, OTHER),))
    seen = hold(believe(None, head(15), [], None), theirs, TRUE.consistency(7, 15))
    assert seen.roots == {7: head(7).root, 15: head(15).root}
    forked = CosignedHead(head(7, REWRITTEN), (cosign(head(7, REWRITTEN), "bob", 5, OTHER),))
    with pytest.raises(AnotherHistory, match=r"the 7 that bob \(key .*…\) saw") as found:
        hold(seen, forked, TRUE.consistency(7, 15))
    assert found.value.heads == (head(15), head(7, REWRITTEN)), "both are signed by the market: they prove it"
    for untrue in (head(7, key=OTHER), head(8)):  # not the market's word; not what was cosigned
        with pytest.raises(BadHead):
            hold(seen, CosignedHead(untrue, theirs.cosignatures), TRUE.consistency(7, 15))
