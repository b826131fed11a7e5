"""`torg provenance` and `torg verify`: what was computed by whom, and the proof of it, checked offline."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CliError, Exit, refused, usage
from cli.output import document, printable
from cli.session import connect
from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("provenance")(provenance)
    app.command("verify")(verify)


def provenance(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="where to write the bundle; default: stdout")
    ] = None,
) -> None:
    """The provenance bundle of a job: every segment of work, chained and signed."""
    settings: Settings = ctx.obj
    bundle = connect(settings, "customer").provenance(job_id)
    if output is None:
        document(bundle)
        return
    try:
        output.write_text(json.dumps(bundle, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise refused("not_writable", f"{output}: {error.strerror}", field="-o") from error
    told = {"id": job_id, "file": str(output), "bytes": output.stat().st_size}
    if settings.as_json:
        document(told)
    else:
        print(f"{output}  {told['bytes']:,} bytes; `torg verify {output}` checks it, offline.")


def verify(
    ctx: typer.Context, bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="file of `torg provenance -o`")]
) -> None:
    """Check a provenance bundle offline: signatures, chain, charges."""
    settings: Settings = ctx.obj
    told = check_bundle(read_bundle(bundle))
    if settings.as_json:
        document(told)
    elif told["ok"]:
        _show(told)
        print(f"{bundle} is sound.")
    else:
        _show(told)
        print(f"{bundle} is NOT sound: {told['first_bad']}")
    if not told["ok"]:
        raise typer.Exit(Exit.FAILED)


def _show(told: dict[str, Any]) -> None:
    for check in told["checks"]:
        print(f"{'✓' if check['ok'] else '✗'} {check['name']:<12}{printable(check['detail'])}")


def read_bundle(path: Path) -> dict[str, object]:
    """The bundle in a file; refused where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise usage(f"{path} does not exist", field="BUNDLE", code="no_such_file") from None
    except OSError as error:
        raise usage(f"{path}: {error.strerror}", field="BUNDLE", code="not_readable") from error
    except ValueError as error:
        raise CliError("not_json", f"{path} is not a bundle: {error}", "BUNDLE") from error
    if not isinstance(found, dict):
        raise CliError("not_a_bundle", f"{path} is not a bundle", "BUNDLE")
    return found


def check_bundle(bundle: object) -> dict[str, Any]:
    """{ok, first_bad, checks [{name, ok, detail}]}; needs no market and no network."""
    from storage.provenance import verify_bundle

    found = verify_bundle(bundle)
    checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in found.checks]
    bad = next((f"{check.name}: {check.detail}" for check in found.checks if not check.ok), None)
    return {"ok": found.ok, "first_bad": bad, "checks": checks}
