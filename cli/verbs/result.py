"""`torg result`: fetch the trained model."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CliError, refused
from cli.output import document, log
from cli.session import connect_pooled
from cli.settings import Settings


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
        manifest = answer["manifest"]
        digest = model_digest(manifest)
        output.mkdir(parents=True, exist_ok=True)
        target = output / "model.safetensors"
        if not settings.as_json:
            log(f"fetching {digest[:16]}…")
        try:
            client.download(digest, target)
        except ValueError as error:
            raise CliError(
                "digest_wrong", str(error), None, "try again; if it stays, run `torg books verify`"
            ) from error
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    told = {"id": job_id, "model": str(target), "manifest": str(output / "manifest.json"), "digest": digest,
            "manifest_digest": answer["digest"], "bytes": target.stat().st_size}  # fmt: skip
    if settings.as_json:
        document(told)
    else:
        print(f"{target}  {told['bytes']:,} bytes  sha256 {digest}")


def model_digest(manifest: dict[str, Any]) -> str:
    """The digest of the parameters' safetensors file in a checkpoint manifest."""
    for name in ("model", "parameters", "base"):
        found = manifest.get(name)
        if isinstance(found, dict):
            found = found.get("digest")
        if isinstance(found, str) and len(found) == hashlib.sha256().digest_size * 2:
            return found
    raise CliError("manifest_unknown", "the manifest names no model", None, "is this torg as new as the market?")
