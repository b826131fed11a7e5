"""A command's working folder as one deterministic tar: like a job's data, but that programs stay programs. One that is not
small travels in parts, of which the next job's folder shares what did not change.

Left out are `.git` and what `.gitignore` files say. A link to something in the folder is packed as what it leads to; one that
leads out of it is refused, as is everything that is neither file nor folder: whoever runs the command has only the tar.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.gitignore import REPOSITORY, Rule, is_ignored, read, rules_above
from market.packing import Packed, add_file, measure
from storage.archives import MAX_DATA_BYTES, MAX_FILES, PackingError
from storage.parts import Parts, cut

_KINDS = (
    (stat.S_ISSOCK, "a socket"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISBLK, "a device"), (stat.S_ISCHR, "a device")
)  # fmt: skip


def pack_workdir(source: Path, target: Path) -> Packed:
    """Pack the folder into the new tar `target`; it may be empty. Raises PackingError, which names the file at fault."""
    if not source.is_dir():
        raise PackingError(f"{source} is no folder" if source.exists() else f"{source} does not exist")
    source = source.resolve()
    size = count = 0
    files: list[_File] = []
    for file in _walk(source):
        size, count = size + file.bytes, count + 1
        if size > MAX_DATA_BYTES or count > MAX_FILES:
            most = f"{MAX_DATA_BYTES} bytes (2 GiB) or {MAX_FILES} files"
            raise PackingError(
                f"{source} is larger than {most}; leave something out by .gitignore, or bring it as data"
            )
        files.append(file)
    with target.open("xb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(files, key=lambda one: one.name):
            try:
                with file.path.open("rb") as content:
                    length = os.fstat(content.fileno()).st_size
                    add_file(archive, file.name, length, content, executable=file.executable)
            except OSError as error:
                raise PackingError(f"{file.name} cannot be read: {error.strerror or error}") from None
    return measure(target, source.name or "workdir", count)


def send_workdir(packed: Packed, upload: Callable[[Path], str], scratch: Path) -> dict[str, Any]:
    """Send the packed folder: whole, or in parts and with a manifest of them. {digest}, with `parts` where there are some."""
    ends = list(cut(packed.path))
    if len(ends) == 1:
        digest = upload(packed.path)
        assert digest == packed.digest, "the market has other bytes than were packed"
        return {"digest": digest}
    parts: list[tuple[str, int]] = []
    piece = scratch / "part"
    with packed.path.open("rb") as archive:
        for begin, end in ends:
            piece.write_bytes(archive.read(end - begin))
            parts.append((upload(piece), end - begin))
    piece.write_bytes(Parts(tuple(parts)).encode())
    return {"digest": upload(piece), "parts": len(parts)}


@dataclass(frozen=True, slots=True)
class _File:
    """One file to pack: its name in the tar, and where it is."""

    name: str
    path: Path
    bytes: int
    executable: bool


def _walk(root: Path) -> Iterator[_File]:
    above, rules = rules_above(root)
    yield from _inside(root, root, "", above, rules, (root,))


def _inside(
    root: Path, folder: Path, prefix: str, above: str, rules: tuple[Rule, ...], trail: tuple[Path, ...]
) -> Iterator[_File]:
    """Files below `folder`, whose names begin with `prefix`. `trail`: the folders that led here, links resolved."""
    rules = (*rules, *read(folder, above + prefix))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PackingError(f"{prefix or folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        name = prefix + entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name == REPOSITORY or is_ignored(rules, above + name, folder=is_folder):
            continue
        _check_name(name)
        path = Path(entry.path)
        if entry.is_symlink():
            path = _led_to(root, path, name)
            is_folder = path.is_dir()
        if not is_folder:
            yield _file(name, path)
        elif path.resolve() in trail:
            raise PackingError(f"{name} is a link to a folder that it lies in")
        else:
            yield from _inside(root, path, f"{name}/", above, rules, (*trail, path.resolve()))


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PackingError(f"{name!r} has a name that is not UTF-8") from None
    if "\\" in name:
        raise PackingError(f"{name!r} has a backslash in its name")


def _led_to(root: Path, link: Path, name: str) -> Path:
    """What a link leads to, inside the folder."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise PackingError(f"{name} is a link to nothing ({os.readlink(link)})") from None
    if not target.is_relative_to(root):
        raise PackingError(f"{name} is a link out of the folder, to {target}")
    return target


def _file(name: str, path: Path) -> _File:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for test, words in _KINDS if test(status.st_mode)), "no plain file")
        raise PackingError(f"{name} is {kind}")
    return _File(name, path, status.st_size, bool(status.st_mode & stat.S_IXUSR))
