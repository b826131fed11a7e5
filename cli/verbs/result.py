"""`torg result`: fetch the trained model, or the files that a command left."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CliError, refused
from cli.output import console, document
from cli.session import connect_pooled
from cli.settings import Settings
from storage.artifacts import is_artifacts
from storage.checkpoints import Manifest, ManifestError
from storage.model_files import model_config, model_file
from trainers.restoring import NothingRestorable, Restored, restore_newest

if TYPE_CHECKING:
    from market.client import Market

Fetch = Callable[[str, int], bytes]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("result")(result)


def result(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="folder for model.safetensors, config.json and manifest.json, or for a command's artifacts",
        ),
    ],
    round: Annotated[
        int | None, typer.Option("--round", min=0, metavar="N", help="as it was after this round, if that is kept")
    ] = None,
) -> None:
    """Fetch the model that a job ended with, or has after a round, or a command's artifacts; digests are checked."""
    settings: Settings = ctx.obj
    if output.exists() and not output.is_dir():
        raise refused("not_a_folder", f"{output} is a file", field="-o", remedy="name a folder")
    with connect_pooled(settings, "customer") as client:
        answer = client.result(job_id, round=round)
        output.mkdir(parents=True, exist_ok=True)
        if is_artifacts(answer["manifest"]):
            from cli.artifacts import fetch_artifacts

            fetch_artifacts(settings, client, output, answer)
            return
        try:
            manifest = Manifest.from_json(answer["manifest"])
            with _fetching(settings, client, output, manifest) as fetch:
                found = _restored(manifest, fetch, round)
                buffers = _buffers(manifest, fetch)
            parts = model_file(found.plan, found.state, buffers)
        except (ManifestError, NothingRestorable) as error:
            remedy = "try again; if it stays, run `torg books verify`"
            raise CliError("digest_wrong", str(error), None, remedy) from error
        config = model_config(found.plan, client.job(job_id), client.rounds(job_id))
    size = _write(output / "model.safetensors", parts)
    _write(output / "config.json", [_pretty(config)])
    _write(output / "manifest.json", [_pretty(manifest.to_json())])
    told = {"id": job_id, "model": str(output / "model.safetensors"), "config": str(output / "config.json"),
            "manifest": str(output / "manifest.json"), "round": found.plan.round, "digest": found.plan.parameters,
            "manifest_digest": answer["digest"], "bytes": size, "tensors": len(manifest.tensors)}  # fmt: skip
    if settings.as_json:
        document(told)
    else:
        print(f"{told['model']}  {size:,} bytes, {told['tensors']} tensors, digest {told['digest']}")


def _restored(manifest: Manifest, fetch: Fetch, round: int | None) -> Restored:
    """The state after the checkpoint's round, or an earlier one on its chain."""
    wanted = manifest.round if round is None else round
    sizes = {delta.blob: delta.bytes for delta in manifest.deltas} | {chunk.blob: chunk.bytes for chunk in manifest.state_chunks}
    return restore_newest([manifest], lambda digest: fetch(digest, sizes[digest]), _replay, round=wanted)


def _buffers(manifest: Manifest, fetch: Fetch) -> bytes | None:
    """What the model keeps beside its parameters, as it was at the base."""
    if manifest.buffers is None:
        return None
    content = fetch(manifest.buffers, manifest.buffers_bytes)
    if sha256(content).hexdigest() != manifest.buffers:
        raise ManifestError(f"the blob {manifest.buffers} of the model's buffers has other bytes")
    return content


def _replay(base: bytes, deltas: Sequence[bytes]) -> bytes:
    try:
        from trainers.restoring import replay_members

        return replay_members(base, deltas)
    except ImportError as error:
        raise refused(
            "needs_numpy", f"rounds between two bases are replayed, which needs {error.name}", field="--round",
            remedy="pip install 'torg[node]', or name a round whose checkpoint is a base",
        ) from error  # fmt: skip


@contextmanager
def _fetching(settings: Settings, client: "Market", folder: Path, manifest: Manifest) -> Iterator[Fetch]:
    """Downloads through a file that a later call continues, with a bar for people who wait at a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    screen = console(settings, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task = bar.add_task(
            f"round {manifest.round}", total=manifest.state_bytes + sum(d.bytes for d in manifest.deltas)
        )
        before = 0

        def fetch(digest: str, size: int) -> bytes:
            nonlocal before
            target = folder / f"{digest[:12]}.part"
            try:
                client.download(digest, target, lambda there: bar.update(task, completed=before + there))
                before += size
                return target.read_bytes()
            finally:
                target.unlink(missing_ok=True)

        yield fetch


def _write(target: Path, parts: Sequence[bytes | memoryview]) -> int:
    """The file is whole or as it was before; bytes written."""
    beside = target.with_name(f"{target.name}.part")
    with beside.open("wb") as file:
        size = sum(file.write(part) for part in parts)
    beside.replace(target)
    return size


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
