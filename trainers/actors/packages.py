"""A job's data as one tar: unpacked with nothing but regular files inside the folder given."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


class BadPackage(ValueError):
    """The tar is not one that the market's clients make; the text says which entry."""


def unpack_data(data: bytes, folder: Path) -> None:
    """Write the regular files of an uncompressed tar below `folder`. Raises BadPackage for anything else in it."""
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                target = (root / entry.name).resolve()
                if not entry.isreg() or root not in target.parents:
                    raise BadPackage(f"{entry.name!r} is not a regular file inside the data folder")
                source = archive.extractfile(entry)
                assert source is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    except tarfile.TarError as error:
        raise BadPackage(f"the data are not a tar: {error}") from error
