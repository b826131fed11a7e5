"""`torg provenance`, `verify` and `head`: what was computed by whom, what it costs, and the proof of it, checked offline."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CliError, Exit, refused, usage
from cli.output import document, printable, tell
from cli.session import connect
from cli.settings import Settings

_KEY = re.compile(r"[0-9a-f]{64}")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("provenance")(provenance)
    app.command("verify")(verify)
    app.command("head")(head)


def provenance(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="where to write the bundle; default: stdout")
    ] = None,
    graph: Annotated[Path | None, typer.Option(metavar="FILE", help="a picture of the lineage: .svg or .html")] = None,
    openlineage: Annotated[Path | None, typer.Option(metavar="FILE", help="OpenLineage run events, one a line")] = None,
    card: Annotated[Path | None, typer.Option(metavar="FILE", help="a model card in Markdown, with the figures of the training")] = None,
    dsse: Annotated[Path | None, typer.Option(metavar="FILE", help="the in-toto statements in their envelopes, one a line")] = None,
) -> None:  # fmt: skip
    """Where a job's model comes from: every segment of work, signed, with its proof in the market's log."""
    settings: Settings = ctx.obj
    from cli.heads import witness

    if graph is not None and graph.suffix not in (".svg", ".html"):
        raise usage(f"{graph} is neither .svg nor .html", field="--graph", code="bad_suffix")
    market = connect(settings, "customer")
    bundle = market.provenance(job_id)
    asked = {"--graph": graph, "--openlineage": openlineage, "--card": card, "--dsse": dsse}
    views = {option: file for option, file in asked.items() if file is not None}
    if output is None and not views:
        document(bundle)
        return
    witness(settings, market, size=bundle["body"]["head"]["size"])
    if output is not None and not views:
        _write(settings, job_id, bundle, output)
        return
    from cli.provenance_views import view

    files = {} if output is None else {"-o": (output, _text(bundle))}
    files |= {option: (file, view(option, file, bundle)) for option, file in views.items()}
    for option, (file, text) in files.items():
        _put(file, text, option)
    told = {"id": job_id, "files": [str(file) for file, _ in files.values()]}
    tell(settings, told, "\n".join(told["files"]))


def write_invoice(settings: Settings, job_id: str, role: str, output: Path) -> None:
    """The invoice of a job with its proof, in a file; its head is held to what this home has seen, and remembered."""
    from cli.heads import witness

    market = connect(settings, role)
    bundle = market.invoice_bundle(job_id)
    witness(settings, market, size=bundle["body"]["head"]["size"])
    _write(settings, job_id, bundle, output)


def _write(settings: Settings, job_id: str, bundle: dict[str, Any], output: Path) -> None:
    _put(output, _text(bundle), "-o")
    told = {"id": job_id, "file": str(output), "bytes": output.stat().st_size}
    tell(settings, told, f"{output}  {told['bytes']:,} bytes; `torg verify {output}` checks it, offline.")


def _text(bundle: dict[str, Any]) -> str:
    return json.dumps(bundle, ensure_ascii=False, sort_keys=True) + "\n"


def _put(file: Path, text: str, field: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise refused("not_writable", f"{file}: {error.strerror}", field=field) from error


def head(
    ctx: typer.Context,
    role: Annotated[str, typer.Option(help="customer, provider or operator")] = "customer",
    size: Annotated[
        int | None, typer.Option(min=1, metavar="RECORDS", help="the head of so many records; default: of all")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a head that somebody else was shown (`torg head --json`, or a bundle)")
    ] = None,
) -> None:
    """The signed head of the market's log, held to what this home and others have seen of it; this home cosigns it."""
    settings: Settings = ctx.obj
    from cli.heads import read_head, witness

    if against is not None and size is not None:
        raise usage("--against names the size of its head", field="--size", remedy="leave --size out")
    other = None if against is None else read_head(against)
    told = witness(settings, connect(settings, role), size=size if other is None else other.size, other=other)
    if settings.as_json:
        document(told)
        return
    found, before = told["head"], told["seen_before"]
    print(f"{found['market']}  {found['size']} records  root {found['root']}")
    print(f"signed by {found['public_key']}")
    if before is None:
        print("This is the first head of this market that this home has seen; it is remembered.")
    elif found["size"] < before:
        print(f"The {before} records that this home had seen begin with it.")
    else:
        print(f"It begins with the {before} records that this home had seen: nothing of them was changed.")
    for one in told["cosigned"]:
        who = ", ".join(f"{each['member']} (key {each['public_key'][:16]}…)" for each in one["cosignatures"])
        print(f"It begins with the {one['head']['size']} records that {printable(who)} saw and cosigned.")
    if other is not None:
        print(f"It is the head in {against}: whoever was shown that one has seen the same.")


def verify(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="file of `torg provenance -o` or `torg invoice -o`")],
    public_key: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="the market's key, from its `torg status`; --key HEX says the same. "
                     "Default: the key of this home's market")] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(metavar="HEX", help="a key that must have cosigned a head with every event shown; and again for more")] = None,
) -> None:  # fmt: skip
    """Check a bundle offline, of a model's provenance or of an invoice: signature, proofs, every charge."""
    settings: Settings = ctx.obj
    expected, source = _expected_key(settings, public_key)
    content = read_bundle(bundle)
    witnesses = [_checked_key(key, "--witness") for key in witness or ()]
    told = check_bundle(content, expected, _seen(settings, content), witnesses) | {"expected_key": expected, "expected_key_from": source}
    if settings.as_json:
        document(told)
    elif told["ok"]:
        _show(told)
        print(f"{bundle} is sound, and {_whose(told)}")
    else:
        _show(told)
        print(f"{bundle} is NOT sound: {told['first_bad']}")
        if source == "market.json":
            print(f"The key asked for is that of the market in {settings.home}; --public-key names another market's.")
    if not told["ok"]:
        raise typer.Exit(Exit.FAILED)


def _seen(settings: Settings, bundle: dict[str, Any]) -> dict[str, str]:
    """Roots by size that this home has seen of the market that the bundle names."""
    from cli.heads import seen_of

    body = bundle.get("body")
    market = body.get("market") if isinstance(body, dict) else None
    found = seen_of(settings, market) if isinstance(market, str) else None
    return {} if found is None else {str(size): root for size, root in found.roots.items()}


def _expected_key(settings: Settings, given: str | None) -> tuple[str | None, str | None]:
    """The key that must have signed, lower-case hex, and who says so: the command line or this home's market."""
    # A member's key begins with torg_, so 64 hex digits after the common option --key can only be a market's.
    named = given or (settings.key if settings.key and _KEY.fullmatch(settings.key.lower()) else None)
    if named is not None:
        return _checked_key(named, "--public-key"), "command line"
    own = settings.market_public_key()
    return own, None if own is None else "market.json"


def _checked_key(text: str, option: str) -> str:
    if not _KEY.fullmatch(text.lower()):
        raise usage(f"{text!r} is not a key of 64 hex digits", field=option, code="bad_key")
    return text.lower()


def _whose(told: dict[str, Any]) -> str:
    if told["signed_by"] is None:
        return "NOT signed: anybody can have made it."
    if told["expected_key"] is None:
        return f"signed by the key {told['signed_by']}. Whether that is the market's, `torg status --json` there says."
    said = "this home's market" if told["expected_key_from"] == "market.json" else "the key that you named"
    return f"signed by {said}."


def _show(told: dict[str, Any]) -> None:
    for check in told["checks"]:
        print(f"{'✓' if check['ok'] else '✗'} {check['name']:<12}{printable(check['detail'])}")


def read_bundle(path: Path) -> dict[str, Any]:
    """The bundle in a file; refused where there is none, or one that two readers could read differently."""
    from storage.provenance import load_bundle

    try:
        content = path.read_bytes()
        found = load_bundle(content)
    except FileNotFoundError:
        raise usage(f"{path} does not exist", field="BUNDLE", code="no_such_file") from None
    except OSError as error:
        raise usage(f"{path}: {error.strerror}", field="BUNDLE", code="not_readable") from error
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{") and not content.rstrip().endswith(b"}"):
            told = f"{path} is truncated: it ends after {len(content):,} bytes, inside the bundle"
            raise CliError("truncated", told, "BUNDLE", remedy="fetch it again") from error
        raise CliError("not_json", f"{path} is not a bundle: {error}", "BUNDLE") from error
    if not isinstance(found, dict):
        raise CliError("not_a_bundle", f"{path} is not a bundle", "BUNDLE")
    return found


def check_bundle(
    bundle: Any, public_key: str | None = None, seen: dict[str, str] | None = None, witnesses: Sequence[str] = ()
) -> dict[str, Any]:
    """{ok, first_bad, refusal, signed_by, checks [{name, ok, detail, code}]}; needs no market and no network.

    refusal: the code of the first check that does not hold.

    With `public_key` (hex) it must be signed by that key; `seen`: roots by size of the market's log, seen before; `witnesses`
    (hex) must have cosigned a head that holds every event shown.
    """
    from storage.invoice_bundles import INVOICE_FORMAT, verify_invoice
    from storage.provenance import verify_bundle

    verify = verify_invoice if bundle.get("format") == INVOICE_FORMAT else verify_bundle
    found = verify(bundle, public_key=public_key, seen=seen, witnesses=witnesses)
    names = ("name", "ok", "detail", "code")
    checks = [{name: getattr(check, name) for name in names} for check in found.checks]
    wrong = next((check for check in found.checks if not check.ok), None)
    bad = None if wrong is None else f"{wrong.name}: {wrong.detail}"
    signature = bundle.get("signature")
    signed_by = str(signature["public_key"]) if isinstance(signature, dict) and "public_key" in signature else None
    refusal = None if wrong is None else wrong.code
    return {"ok": found.ok, "first_bad": bad, "refusal": refusal, "signed_by": signed_by, "checks": checks}
