"""Small wheels and sdists, made by hand, in a folder that pip is told to look into: an index without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str = "1.0", *, files: Mapping[str, str] | None = None, needs: Sequence[str] = (),
    scripts: Mapping[str, str] | None = None, links: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """`files`: content by path, a module `name.py` with its VERSION where none are said; `scripts`: entry points;
    `links`: symbolic links by path."""
    about = f"{name}-{version}.dist-info"
    content = dict(files) if files is not None else {f"{name}.py": f"VERSION = {version!r}\n"}
    content[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {one}\n" for one in needs
    )
    content[f"{about}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if scripts:
        entries = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{about}/entry_points.txt"] = f"[console_scripts]\n{entries}"
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in content.items())
    content[f"{about}/RECORD"] = record + f"{about}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in content.items():
            archive.writestr(inner, text)
        for inner, target in (links or {}).items():
            entry = zipfile.ZipInfo(inner)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, target)
    return path


def make_sdist(folder: Path, name: str, version: str, setup: str) -> Path:
    """An sdist whose setup.py is this text."""
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inner, text in {"setup.py": setup, "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{inner}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
