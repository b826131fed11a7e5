"""`torg result`: fetch the trained model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CliError, refused
from cli.output import document, log
from cli.session import connect_pooled
from cli.settings import Settings
from storage.checkpoints import Manifest
from storage.model_files import model_file


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("result")(result)


def result(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="folder for model.safetensors and manifest.json")
    ],
) -> None:
    """Fetch the model that a job ended with; its digest is checked."""
    settings: Settings = ctx.obj
    if output.exists() and not output.is_dir():
        raise refused("not_a_folder", f"{output} is a file", field="-o", remedy="name a folder")
    with connect_pooled(settings, "customer") as client:
        answer = client.result(job_id)
        output.mkdir(parents=True, exist_ok=True)
        target = output / "model.safetensors"
        state = output / "state.part"
        try:
            manifest = Manifest.from_json(answer["manifest"])
            if not settings.as_json:
                log(f"fetching round {manifest.round} ({manifest.state_bytes:,} bytes)…")
            client.download(manifest.state, state)
            model = model_file(manifest, state.read_bytes())
        except ValueError as error:
            remedy = "try again; if it stays, run `torg books verify`"
            raise CliError("digest_wrong", str(error), None, remedy) from error
        finally:
            state.unlink(missing_ok=True)
    part = output / "model.safetensors.part"
    part.write_bytes(model)
    part.replace(target)
    described = manifest.to_json()
    (output / "manifest.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    told = {"id": job_id, "model": str(target), "manifest": str(output / "manifest.json"), "round": manifest.round,
            "digest": manifest.parameters, "manifest_digest": answer["digest"], "bytes": len(model),
            "tensors": len(manifest.tensors)}  # fmt: skip
    if settings.as_json:
        document(told)
    else:
        print(f"{target}  {told['bytes']:,} bytes, {told['tensors']} tensors, digest {manifest.parameters}")
