"""`torg cp`: files and folders into a running job's sandbox and out of it."""

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import megabytes
from cli.errors import CliError, usage
from cli.output import document, printable
from cli.settings import Settings

_REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):(.*)", re.S)
TOLD_BYTES = 64 << 10


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("cp")(cp)


def cp(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="a file or folder, here or JOB:PATH")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="where to, on the other side")],
) -> None:
    """Copy a file or folder into a running job (torg cp LOCAL JOB:PATH) or out of it (torg cp JOB:PATH LOCAL).

    A PATH that is not absolute begins in the job's working folder. A target that is a folder gets it inside. A file that is
    there is replaced when the copy is whole; a folder is not.
    """
    settings: Settings = ctx.obj
    there, here = _remote(source), _remote(target)
    if (there is None) == (here is None):
        remedy = "torg cp LOCAL JOB:PATH, or torg cp JOB:PATH LOCAL; ./a:b is a file here"
        raise usage("one of the two is in a job, and the other here", remedy=remedy)
    if here is not None:
        sums = _put(settings, Path(source), *here)
    else:
        assert there is not None
        sums = _get(settings, *there, target)
    if settings.as_json:
        document(sums)
        return
    files = "1 file" if sums["files"] == 1 else f"{sums['files']:,} files"
    left_out = f"; {sums['left_out']} links or special files left out" if sums["left_out"] else ""
    print(printable(f"{files}, {megabytes(sums['bytes'])}, to {sums['path']}{left_out}"))


def _remote(text: str) -> tuple[str, str] | None:
    found = _REMOTE.fullmatch(text)
    return None if found is None else (found[1], found[2] or ".")


def _put(settings: Settings, source: Path, job: str, path: str) -> dict[str, Any]:
    from cli.remote import Remote, signals
    from trainers.copying import CopyError, pack
    from trainers.sessions import frames

    if not source.exists():
        raise usage(f"{source} does not exist", field="SOURCE")
    reading, writing = os.pipe()
    failed: list[str] = []

    def send() -> None:
        with open(writing, "wb", buffering=1 << 16) as out:
            try:
                pack(source, out)
            except (CopyError, OSError) as error:
                failed.append(str(error))

    remote = Remote(settings, job, {"kind": "put", "path": path})
    with _bar(settings, _size(source)) as moved:
        threading.Thread(target=send, name="pack", daemon=True).start()

        def read(most: int) -> bytes:
            data = os.read(reading, most)
            moved(len(data))
            return data

        remote.feed(read)
        told = {frames.STDOUT: b"", frames.STDERR: b""}
        with signals(remote):
            for kind, data in remote.events():
                told[kind] = (told[kind] + data)[:TOLD_BYTES]
    _check(remote, failed[0] if failed else told[frames.STDERR].decode(errors="replace"))
    found: dict[str, Any] = json.loads(told[frames.STDOUT])
    return {**found, "path": f"{job}:{found['path']}"}


def _get(settings: Settings, job: str, path: str, target: str) -> dict[str, Any]:
    from cli.remote import Remote, signals
    from trainers.copying import CopyError, Stream

    remote = Remote(settings, job, {"kind": "get", "path": path})
    incoming = _Incoming(remote)
    why = ""
    with signals(remote):
        try:
            stream = Stream(incoming)
            with _bar(settings, stream.sums.bytes) as moved:
                stream.moved = moved
                final, sums = stream.unpack(target)
            incoming.drain()
        except CopyError as error:
            why = str(error)
            if remote.exit is None and incoming.begun:
                remote.close()
                raise CliError("copy_failed", why) from None
        except OSError as error:
            remote.close()
            raise CliError("copy_failed", f"{error.filename or target}: {error.strerror}") from None
    _check(remote, incoming.told.decode(errors="replace") or why)
    if why:
        raise CliError("copy_failed", why)
    return {"path": str(final), "files": sums.files, "bytes": sums.bytes, "left_out": sums.left_out}


class _Incoming:
    """What comes on stdout, as a file; `told`: what came on stderr."""

    def __init__(self, remote: Any) -> None:
        self._events, self._rest = remote.events(), b""
        self.told, self.begun = b"", False

    def read(self, size: int) -> bytes:
        """At most so many bytes, as they come; none at the end. Raises CliError when the session is lost."""
        from trainers.sessions import frames

        while not self._rest:
            kind, data = next(self._events, (None, b""))
            if kind is None:
                return b""
            if kind == frames.STDERR:
                self.told = (self.told + data)[:TOLD_BYTES]
            else:
                self._rest, self.begun = data, True
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


def _check(remote: Any, told: str) -> None:
    """How the other side ended."""
    found = remote.exit or {}
    if found.get("reason") == "exit" and found.get("code") == 0:
        return
    last = told.strip().splitlines()[-1] if told.strip() else str(found.get("detail") or "it ended without a word")
    raise CliError("copy_failed", printable(last))


def _size(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(file.lstat().st_size for file in source.rglob("*") if file.is_file() and not file.is_symlink())


@contextlib.contextmanager
def _bar(settings: Settings, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of progress on a terminal; a function that moves it by bytes."""
    if settings.as_json or not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copy", total=max(total, 1))
        yield lambda size: bar.advance(task, size)


