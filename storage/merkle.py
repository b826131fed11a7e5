"""A Merkle tree over an append-only list, as in certificate transparency: roots, and proofs that are checked without it.

Hashes are SHA-256: a leaf's is over 0x00 and its bytes, a node's over 0x01 and its two children. A list of n leaves is
split after the largest power of two below n (RFC 6962, section 2.1; proofs and their checks as in RFC 9162, sections
2.1.3 and 2.1.4). The empty list's root is SHA-256 of nothing.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf, 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two children, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The leaves' hashes and the nodes over them: about 64 bytes a leaf. Appending costs two hashes on average."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash, and every node that is complete with it."""
        assert len(leaf) == HASH_BYTES, "a leaf is appended by its hash"
        level, place, hashed = 0, len(self), leaf
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += hashed
            if place % 2 == 0:
                return
            hashed = node_hash(self._at(level, place - 1), hashed)
            level, place = level + 1, place // 2

    def leaf(self, index: int) -> bytes:
        """The hash of one leaf."""
        return self._at(0, index)

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (default: all)."""
        size = self._checked(len(self) if size is None else size)
        return self._over(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path that proves leaf `index` in the tree of the first `size` leaves, from the leaf up."""
        assert 0 <= index < self._checked(size), "a path leads from a leaf of the tree"
        low, high, path = 0, size, []
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """What proves that the tree of the first `new` leaves begins with that of the first `old`; 0 < old <= new."""
        assert 0 < old <= self._checked(new), "an older tree is not empty and no larger"
        low, high, path, whole = 0, new, [], True
        while old - low != high - low:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low, whole = middle, False
        return ([] if whole else [self._over(low, high)]) + path[::-1]

    def _at(self, level: int, place: int) -> bytes:
        return bytes(self._levels[level][place * HASH_BYTES : (place + 1) * HASH_BYTES])

    def _over(self, low: int, high: int) -> bytes:
        """The hash over the leaves from `low` up to `high`; `low` is a multiple of the largest power of two that fits."""
        size = high - low
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self._at(level, low >> level)
        middle = low + _split(size)
        return node_hash(self._over(low, middle), self._over(middle, high))

    def _checked(self, size: int) -> int:
        assert 0 <= size <= len(self), f"the tree has {len(self)} leaves, not {size}"
        return size


def _split(size: int) -> int:
    """The largest power of two below `size` (which is over 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that this path leads to from the leaf's hash, or None where a path of another length was needed."""
    if not 0 <= index < size:
        return None
    place, last, hashed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if place % 2 or place == last:
            hashed = node_hash(sibling, hashed)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        place, last = place >> 1, last >> 1
    return hashed if last == 0 else None


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves the leaf's hash at `index` of the tree with `size` leaves and this root."""
    return root_from_inclusion(leaf, index, size, path) == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path proves that the tree of `new` leaves begins with the one of `old` leaves. An empty one begins all."""
    if old == new:
        return old_root == new_root and not path
    if old == 0:
        return old_root == EMPTY_ROOT and not path
    if not 0 < old < new or not path:
        return False
    rest = list(path)
    place, last = old - 1, new - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    seed = old_root if place == 0 and old & (old - 1) == 0 else rest.pop(0)
    older = newer = seed
    for sibling in rest:
        if last == 0:
            return False
        if place % 2 or place == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and older == old_root and newer == new_root
