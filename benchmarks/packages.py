"""Wheels made on the spot, for benchmarks that install packages without a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

MODULES = 200


def make_wheel(folder: Path, name: str, version: str) -> int:
    """A package of 200 modules of a hundred lines; the bytes of its wheel."""
    about = f"{name}-{version}.dist-info"
    text = "".join(f"def function_{line}(value):\n    return value + {line}\n" for line in range(50))
    content = {f"{name}/__init__.py": f"VERSION = {version!r}\n"}
    content |= {f"{name}/module_{number}.py": text for number in range(MODULES)}
    content[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{about}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: torg\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},sha256={_digest(one)},{len(one.encode())}\n" for path, one in content.items())
    content[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, one in content.items():
            archive.writestr(inner, one)
    return path.stat().st_size


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
