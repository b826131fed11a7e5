"""Merkle trees against the definition of RFC 6962, and proofs that prove nothing else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.merkle import EMPTY_ROOT, Tree, is_consistent, is_included, leaf_hash, node_hash

# Inputs and roots of the reference implementation of certificate transparency (its test of Merkle trees).
INPUTS = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(size: int) -> Tree:
    return Tree(leaf_hash(number.to_bytes(4, "big")) for number in range(size))


def defined(leaves: list[bytes]) -> bytes:
    """The definition, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(defined(leaves[:split]), defined(leaves[split:]))


def test_the_roots_of_the_published_example() -> None:
    tree = Tree(leaf_hash(bytes.fromhex(one)) for one in INPUTS)
    assert [tree.root(size).hex() for size in range(1, 9)] == ROOTS
    assert tree.root(0) == EMPTY_ROOT == Tree().root()


def test_every_root_and_every_proof_of_small_trees() -> None:
    tree = tree_of(34)
    for new in range(35):
        leaves = [tree.leaf(index) for index in range(new)]
        root = tree.root(new)
        assert root == defined(leaves)
        for index, leaf in enumerate(leaves):
            assert is_included(leaf, index, new, tree.inclusion(index, new), root)
        for old in range(1, new + 1):
            assert is_consistent(old, tree.root(old), new, root, tree.consistency(old, new))


@given(st.integers(1, 300).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))), st.data())
def test_a_path_proves_one_leaf_at_one_place_of_one_tree(shape: tuple[int, int], data: st.DataObject) -> None:
    size, index = shape
    tree = tree_of(size)
    leaf, path, root = tree.leaf(index), tree.inclusion(index, size), tree.root()
    assert not is_included(leaf_hash(b"another"), index, size, path, root)
    other = data.draw(st.integers(-1, size + 1).filter(lambda one: one != index))
    assert not is_included(leaf, other, size, path, root)
    assert not is_included(leaf, index, size, [*path, root], root)
    if path:
        bad = data.draw(st.integers(0, len(path) - 1))
        assert not is_included(leaf, index, size, path[:bad] + path[bad + 1 :], root)
        flipped = bytes([path[bad][0] ^ 1]) + path[bad][1:]
        assert not is_included(leaf, index, size, [*path[:bad], flipped, *path[bad + 1 :]], root)


@given(st.integers(1, 300).flatmap(lambda new: st.tuples(st.integers(1, new), st.just(new))), st.data())
def test_no_path_makes_another_history_consistent(sizes: tuple[int, int], data: st.DataObject) -> None:
    old, new = sizes
    tree = tree_of(new)
    path, old_root, root = tree.consistency(old, new), tree.root(old), tree.root()
    rewritten = Tree([leaf_hash(b"another"), *(tree.leaf(index) for index in range(1, old))]).root()
    assert not is_consistent(old, rewritten, new, root, path)
    assert not is_consistent(old, old_root, new, rewritten, path)
    assert not is_consistent(old, old_root, new, root, [*path, root])
    if path:
        bad = data.draw(st.integers(0, len(path) - 1))
        assert not is_consistent(old, old_root, new, root, path[:bad] + path[bad + 1 :])


def test_an_empty_proof_proves_only_that_nothing_was_added() -> None:
    tree = tree_of(5)
    assert is_consistent(5, tree.root(), 5, tree.root(), [])
    assert is_consistent(0, EMPTY_ROOT, 5, tree.root(), [])
    assert not is_consistent(3, tree.root(3), 5, tree.root(), [])
    assert not is_consistent(0, tree.root(1), 5, tree.root(), [])
    assert not is_included(tree.leaf(0), 0, 5, [], tree.root())
    assert is_included(tree.leaf(0), 0, 1, [], tree.root(1))


@pytest.mark.parametrize(("old", "new"), [(5, 3), (-1, 3), (7, 0)])
def test_sizes_that_make_no_sense_prove_nothing(old: int, new: int) -> None:
    tree = tree_of(8)
    assert not is_consistent(old, tree.root(3), new, tree.root(), tree.consistency(3, 8))
