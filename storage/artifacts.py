"""What a command has left: a manifest that names each file by its digest, kept in the blob store like the files themselves.

Jobs of before blocks have one of what they saved, too (`storage.saved`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from storage.blobs import DIGEST
from storage.canonical import NotCanonical, canonical_bytes, digest_of, parse_json
from storage.formats import found_format, newer_manifest

FORMAT: Final = "torg-artifacts-1"
MAX_FILES: Final = 10_000
_FIELDS: Final = ("format", "job", "number", "files", "unmatched", "left_out")
_FILE_FIELDS: Final = ("path", "blob", "bytes", "executable")


class ArtifactsError(ValueError):
    """These bytes are no such manifest; the text says which field."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file: its path in the working folder, its blob and length, and whether it may be executed."""

    path: str
    blob: str
    bytes: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files of try `number` of a job's command, by path; patterns that meant none; how many could not be kept."""

    job: str
    number: int
    files: tuple[Artifact, ...]
    unmatched: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def blobs(self) -> tuple[str, ...]:
        """Digests of all blobs that it names."""
        return tuple(dict.fromkeys(file.blob for file in self.files))

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the format's name."""
        files = [{name: getattr(file, name) for name in _FILE_FIELDS} for file in self.files]
        told = {"job": self.job, "number": self.number, "unmatched": list(self.unmatched), "left_out": self.left_out}
        return {"format": FORMAT, **told, "files": files}

    def encode(self) -> bytes:
        """The canonical bytes; their SHA-256 is `digest`."""
        return canonical_bytes(self.to_json())

    @property
    def digest(self) -> str:
        """The name of this manifest."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, value: object) -> Artifacts:
        """Read what `to_json` made; raises ArtifactsError."""
        if not is_artifacts(value):
            raise ArtifactsError(newer_manifest("the list of artifacts", found_format(value), FORMAT) or f"not a manifest of format {FORMAT}")
        assert isinstance(value, dict)
        if set(value) != set(_FIELDS):
            odd = sorted(set(value) ^ set(_FIELDS))
            raise ArtifactsError(f"fields missing or unknown: {', '.join(odd)}")
        files, unmatched = value["files"], value["unmatched"]
        if not isinstance(value["job"], str) or not is_count(value["number"]) or not is_count(value["left_out"]):
            raise ArtifactsError("job is no text, or number or left_out no count")
        if not isinstance(unmatched, list) or not all(isinstance(one, str) for one in unmatched):
            raise ArtifactsError("unmatched is no list of patterns")
        if not isinstance(files, list) or len(files) > MAX_FILES:
            raise ArtifactsError(f"files is no list of at most {MAX_FILES}")
        found = tuple(_file(one) for one in files)
        check_paths(file.path for file in found)
        return cls(value["job"], value["number"], found, tuple(unmatched), value["left_out"])

    @classmethod
    def decode(cls, data: bytes) -> Artifacts:
        """Read what `encode` made; raises ArtifactsError."""
        try:
            return cls.from_json(parse_json(data))
        except NotCanonical as error:
            raise ArtifactsError(str(error)) from error


def is_artifacts(value: object) -> bool:
    """Whether a manifest is of files that a command has left."""
    return isinstance(value, dict) and value.get("format") == FORMAT


def _file(value: object) -> Artifact:
    if not isinstance(value, dict) or set(value) != set(_FILE_FIELDS):
        raise ArtifactsError(f"one of files needs {', '.join(_FILE_FIELDS)}: {str(value)[:80]}")
    path, blob = value["path"], value["blob"]
    if not isinstance(path, str) or not stays_inside(path):
        raise ArtifactsError(f"a path does not stay in its folder: {path!r}")
    if not isinstance(blob, str) or DIGEST.fullmatch(blob) is None:
        raise ArtifactsError(f"{path}: blob is not a digest")
    if not is_count(value["bytes"]) or not isinstance(value["executable"], bool):
        raise ArtifactsError(f"{path}: bytes is no count or executable neither true nor false")
    return Artifact(**value)


def stays_inside(path: str) -> bool:
    """Whether a path is relative, printable, in its shortest form, and leads out of its folder nowhere."""
    pure = PurePosixPath(path)
    plain = path.isprintable() and "\\" not in path and str(pure) == path
    return plain and bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts


def check_paths(paths: Iterable[str]) -> None:
    """No path twice, and none that is a folder of another. Raises ArtifactsError."""
    files: set[str] = set()
    for path in paths:
        if path in files:
            raise ArtifactsError(f"{path} is there twice")
        files.add(path)
    for path in files:
        for folder in PurePosixPath(path).parents:
            if str(folder) in files:
                raise ArtifactsError(f"{folder} is a file and a folder")


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0."""
    return type(value) is int and value >= 0
