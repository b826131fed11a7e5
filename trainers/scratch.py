"""Wiping the folder of a lease, whatever the code that had it has made of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def wiped(folder: Path) -> bool:
    """Remove it with all that is in it; False when something of it stays, as while a process still writes there."""
    if folder.is_symlink() or not folder.is_dir():
        with contextlib.suppress(OSError):
            folder.unlink(missing_ok=True)
    else:
        _open_up(str(folder))
        for here, folders, _ in os.walk(folder):
            for name in folders:
                _open_up(os.path.join(here, name))
        shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def wipe(folder: Path) -> None:
    """The same for a folder that nobody uses any more. Raises OSError when something of it stays."""
    if not wiped(folder):
        raise OSError(f"{folder} could not be removed")


def _open_up(folder: str) -> None:
    """Give its owner all rights to a folder whose maker has taken them away. A link in its place is not followed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
        finally:
            os.close(descriptor)
