"""What an environment is layered on, its digest, and its folder: `bin` and `lib/pythonX.Y/site-packages` over torg's own.

The folder has the form of a virtual environment, so that Python finds its packages by where it is started from. Beside them
lies a `.pth` file that adds torg's own packages behind: what these have already (torch) is not there a second time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.canonical import canonical_bytes

FORMAT: Final = "torg-environment-1"
BASE: Final = "_torg_base.pth"
_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True, slots=True)
class Base:
    """What is under every environment here: Python, the platform, folders of packages, and [name, version] of what is in them."""

    python: str
    platform: str
    folders: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]


@functools.cache
def own_base() -> Base:
    """This process's."""
    found = {
        (re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower(), one.version) for one in importlib.metadata.distributions()
    }
    folders = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    libc = " ".join(platform.libc_ver())
    return Base(
        f"{sys.implementation.cache_tag} {platform.python_version()} {interpreter()}", f"{sysconfig.get_platform()} {libc}",
        tuple(dict.fromkeys(folder for folder in folders if Path(folder).is_dir())), tuple(sorted(found)),
    )  # fmt: skip


def digest_of(lines: Sequence[str], base: Base) -> str:
    """Names the environment of these requirements (in normal form) over that base: SHA-256 in hex."""
    told = [FORMAT, list(lines), base.python, base.platform, list(base.folders), [list(one) for one in base.packages]]
    return hashlib.sha256(canonical_bytes(told)).hexdigest()


def interpreter() -> str:
    """The program behind torg's own Python: of a virtual environment, the one that it was made with."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def packages_folder(folder: Path) -> Path:
    """Where an environment's packages are."""
    return folder / "lib" / _PYTHON / "site-packages"


def make_layer(folder: Path, base: Base) -> None:
    """What makes an environment of a folder with packages in it. Raises FileExistsError when a wheel has brought such files."""
    packages = packages_folder(folder)
    packages.mkdir(parents=True, exist_ok=True)
    lines = [f"import site; site.addsitedir({path!r})\n" for path in base.folders]
    with (packages / BASE).open("x", encoding="utf-8") as file:
        file.writelines(lines)
    with (folder / "pyvenv.cfg").open("x", encoding="utf-8") as file:
        file.write(f"home = {Path(interpreter()).parent}\ninclude-system-site-packages = false\n")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python", "python3", _PYTHON):
        (programs / name).symlink_to(interpreter())
