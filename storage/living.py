"""Which blobs the record still needs: what events name, and what the manifests name that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from storage.artifacts import Artifacts, ArtifactsError
from storage.blobs import DIGEST
from storage.checkpoints import Manifest, ManifestError
from storage.parts import Parts, PartsError
from storage.saved import Saved, SavedError

MANIFEST_ERRORS = (ArtifactsError, ManifestError, PartsError, SavedError)


class Living:
    """Learns from events; `manifests` must be on the shelf with all that they name, `named` may be."""

    def __init__(self) -> None:
        self.named: dict[str, None] = {}
        self._checkpoints: dict[str, dict[str, None]] = {}
        self._left: dict[str, None] = {}
        self._saved: dict[str, str] = {}
        self._workdirs: dict[str, None] = {}

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """The events of one record, in order."""
        for event in events:
            self.named.update(dict.fromkeys(digests_in(event)))
            kind = event["type"]
            if kind == "checkpoint_durable":
                kept = self._checkpoints.setdefault(event["job"], {})
                kept[event["manifest"]] = None
                for removed in event["removed"]:
                    kept.pop(removed, None)
            elif kind == "attempt_ended" and event["manifest"] is not None:
                self._left[event["manifest"]] = None
            elif kind == "job_submitted" and "parts" in (workdir := _workdir(event)):
                self._workdirs[workdir["digest"]] = None
            elif kind == "files_saved":
                self._saved[event["job"]] = event["manifest"]
            elif kind == "job_state" and event["state"] == "done":
                self._saved.pop(event["job"], None)

    def manifests(self) -> Iterator[tuple[str, Callable[[bytes], list[str]]]]:
        """Each manifest that is kept, with what reads the digests in it (raises one of MANIFEST_ERRORS)."""
        for kept in self._checkpoints.values():
            yield from ((digest, lambda data: list(Manifest.decode(data).blobs)) for digest in kept)
        yield from ((digest, lambda data: list(Artifacts.decode(data).blobs)) for digest in self._left)
        yield from ((digest, lambda data: [part for part, _ in Parts.decode(data).parts]) for digest in self._workdirs)
        yield from ((digest, lambda data: list(Saved.decode(data).blocks)) for digest in self._saved.values())


def _workdir(submitted: dict[str, Any]) -> dict[str, Any]:
    """A batch job's working folder; empty where it has none."""
    found: dict[str, Any] = (submitted["spec"].get("command") or {}).get("workdir") or {}
    return found


def digests_in(value: Any) -> Iterator[str]:
    """Everything in a JSON value that has the shape of a blob's name."""
    if isinstance(value, str):
        if DIGEST.fullmatch(value) is not None:
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from digests_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from digests_in(each)
