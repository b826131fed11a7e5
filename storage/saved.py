"""What a command has saved in its checkpoint folder: a manifest that names each file's blocks by their digests. It lies in
the blob store as the blocks do, so that what did not change is there already.

Older jobs have a manifest of whole files (`storage.artifacts`), which is read as one block a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from storage.artifacts import Artifacts, ArtifactsError, check_paths, is_artifacts, is_count, stays_inside
from storage.blobs import DIGEST
from storage.canonical import NotCanonical, canonical_bytes, parse_json
from storage.formats import found_format, newer_manifest

FORMAT: Final = "torg-saved-1"
BLOCK_BYTES: Final = 1 << 20
"""What is cut now; docs/adr/0013 says why. A reader takes any power of two between the bounds."""
MIN_BLOCK_BYTES: Final = 1 << 12
MAX_BLOCK_BYTES: Final = 1 << 24
MAX_FILES: Final = 10_000
MAX_BLOCKS: Final = 1 << 15
"""Of all files: 32 GiB in blocks as they are cut now."""
_FIELDS: Final = ("format", "job", "number", "block_bytes", "files", "left_out")
_FILE_FIELDS: Final = ("path", "bytes", "executable", "modified_ns", "blocks")
_MAX_TIME_NS: Final = 1 << 62


class SavedError(ValueError):
    """These bytes are no such manifest; the text says which field."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a file: its blob and length."""

    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file: its path in the checkpoint folder, whether it may be executed, when it was written last (nanoseconds since
    1970; 0 where nobody knows), and its content, block by block.
    """

    path: str
    blocks: tuple[Block, ...]
    executable: bool = False
    modified_ns: int = 0

    @property
    def bytes(self) -> int:
        """Its length."""
        return sum(block.bytes for block in self.blocks)

    def is_cut(self, block_bytes: int = BLOCK_BYTES) -> bool:
        """Whether its blocks are as they are cut now; an older job's are whole files."""
        return [block.bytes for block in self.blocks] == block_lengths(self.bytes, block_bytes)


@dataclass(frozen=True, slots=True)
class Saved:
    """What try `number` of a job's command had saved, by path, and how many files could not be kept."""

    job: str
    number: int
    files: tuple[SavedFile, ...]
    left_out: int = 0
    block_bytes: int = BLOCK_BYTES

    @property
    def blocks(self) -> Mapping[str, int]:
        """Length by digest of all blocks, each once, in the order of the files."""
        return {block.digest: block.bytes for file in self.files for block in file.blocks}

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the format's name."""
        files = [
            {
                "path": file.path, "bytes": file.bytes, "executable": file.executable, "modified_ns": file.modified_ns,
                "blocks": [block.digest for block in file.blocks],
            }
            for file in self.files
        ]  # fmt: skip
        told = {"job": self.job, "number": self.number, "block_bytes": self.block_bytes, "left_out": self.left_out}
        return {"format": FORMAT, **told, "files": files}

    def encode(self) -> bytes:
        """The canonical bytes; their SHA-256 names the manifest."""
        return canonical_bytes(self.to_json())

    @classmethod
    def from_json(cls, value: object) -> Saved:
        """Read what `to_json` made; raises SavedError."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise SavedError(newer_manifest("the list of what was saved", found_format(value), FORMAT) or f"not a manifest of format {FORMAT}")
        if set(value) != set(_FIELDS):
            raise SavedError(f"fields missing or unknown: {', '.join(sorted(set(value) ^ set(_FIELDS)))}")
        if not isinstance(value["job"], str) or not is_count(value["number"]) or not is_count(value["left_out"]):
            raise SavedError("job is no text, or number or left_out no count")
        size, files = value["block_bytes"], value["files"]
        if not (is_count(size) and MIN_BLOCK_BYTES <= size <= MAX_BLOCK_BYTES and size & (size - 1) == 0):
            raise SavedError(f"block_bytes is no power of two from {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}")
        if not isinstance(files, list) or len(files) > MAX_FILES:
            raise SavedError(f"files is no list of at most {MAX_FILES}")
        found = tuple(_file(one, size) for one in files)
        if sum(len(file.blocks) for file in found) > MAX_BLOCKS:
            raise SavedError(f"more than {MAX_BLOCKS} blocks")
        try:
            check_paths(file.path for file in found)
        except ArtifactsError as error:
            raise SavedError(str(error)) from None
        made = cls(value["job"], value["number"], found, value["left_out"], size)
        lengths = made.blocks
        if any(lengths[block.digest] != block.bytes for file in found for block in file.blocks):
            raise SavedError("a block has two lengths")
        return made

    @classmethod
    def decode(cls, data: bytes) -> Saved:
        """Read what `encode` made, or an older job's manifest of whole files; raises SavedError."""
        try:
            value = parse_json(data)
            return _of_whole_files(Artifacts.from_json(value)) if is_artifacts(value) else cls.from_json(value)
        except (NotCanonical, ArtifactsError) as error:
            raise SavedError(str(error)) from error


def block_lengths(size: int, block_bytes: int) -> list[int]:
    """Of a file of `size` bytes: all as long as a block but the last, and none of an empty file."""
    whole, rest = divmod(size, block_bytes)
    return [block_bytes] * whole + ([rest] if rest else [])


def _file(value: object, block_bytes: int) -> SavedFile:
    if not isinstance(value, dict) or set(value) != set(_FILE_FIELDS):
        raise SavedError(f"one of files needs {', '.join(_FILE_FIELDS)}: {str(value)[:80]}")
    path, size, digests, modified_ns = value["path"], value["bytes"], value["blocks"], value["modified_ns"]
    if not isinstance(path, str) or not stays_inside(path):
        raise SavedError(f"a path does not stay in its folder: {path!r}")
    if not is_count(size) or not isinstance(value["executable"], bool):
        raise SavedError(f"{path}: bytes is no count or executable neither true nor false")
    if not is_count(modified_ns) or modified_ns > _MAX_TIME_NS:
        raise SavedError(f"{path}: modified_ns is no time")
    if not isinstance(digests, list) or not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in digests):
        raise SavedError(f"{path}: blocks is no list of digests")
    if size > block_bytes * MAX_BLOCKS or len(digests) != -(-size // block_bytes):
        raise SavedError(f"{path}: {len(digests)} blocks do not make {size} bytes")
    blocks = tuple(map(Block, digests, block_lengths(size, block_bytes)))
    return SavedFile(path, blocks, value["executable"], modified_ns)


def _of_whole_files(found: Artifacts) -> Saved:
    files = (
        SavedFile(file.path, (Block(file.blob, file.bytes),) if file.bytes else (), file.executable)
        for file in found.files
    )
    return Saved(found.job, found.number, tuple(files), found.left_out)
