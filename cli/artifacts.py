"""The files that a batch job's command left, fetched into a folder: each is whole and checked, or as it was before."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import CliError, refused
from cli.output import console, document, printable
from cli.settings import Settings
from storage.artifacts import Artifacts, ArtifactsError
from storage.units import counted

if TYPE_CHECKING:
    from market.client import Market


def fetch_artifacts(settings: Settings, client: "Market", output: Path, answer: dict[str, Any]) -> None:
    """Download every file of the manifest in `answer` below the folder `output`, and say which."""
    try:
        found = Artifacts.from_json(answer["manifest"])
    except ArtifactsError as error:
        raise CliError("digest_wrong", str(error), None, "run `torg books verify`") from error
    _check_folder(output, found)
    _download(settings, client, output, found)
    if settings.as_json:
        files = [{"path": str(output / file.path), "bytes": file.bytes, "digest": file.blob} for file in found.files]
        document({"id": found.job, "number": found.number, "files": files, "bytes": found.total_bytes,
                  "unmatched": list(found.unmatched), "left_out": found.left_out,
                  "manifest_digest": answer["digest"]})  # fmt: skip
        return
    for file in found.files:
        print(printable(f"{output / file.path}  {counted(file.bytes, 'byte')}"))
    print(f"{counted(len(found.files), 'file')}, {counted(found.total_bytes, 'byte')}")
    for pattern in found.unmatched:
        print(printable(f"nothing matched {pattern!r}"))
    if found.left_out:
        print(f"{counted(found.left_out, 'file')} could not be kept (links, pipes, odd names, or too many)")


def _check_folder(output: Path, found: Artifacts) -> None:
    """A link in the folder could lead what is written out of it."""
    for file in found.files:
        for part in (output / file.path, *(output / file.path).parents):
            if part == output:
                break
            if part.is_symlink():
                raise refused("not_a_folder", f"{part} is a link", field="-o", remedy="name a folder without links")


def _download(settings: Settings, client: "Market", output: Path, found: Artifacts) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    screen = console(settings, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task, before = bar.add_task("artifacts", total=found.total_bytes), 0
        there: dict[str, Path] = {}
        for file in found.files:
            target = output / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.blob in there:
                shutil.copyfile(there[file.blob], target)
            else:
                client.download(file.blob, target, lambda size, done=before: bar.update(task, completed=done + size))  # type: ignore[misc]
            there[file.blob] = target
            target.chmod(0o755 if file.executable else 0o644)
            before += file.bytes
            bar.update(task, completed=before)
