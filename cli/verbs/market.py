"""`torg up`, `down`, `status`, `invite`: the market itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.due_rules import due_rule_of
from cli.errors import refused, usage
from cli.estimate_view import calibration
from cli.output import document, log, printable
from cli.session import connect, new_id
from cli.settings import Settings
from storage.units import counted, format_duration


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    invites = typer.Typer(name="invite", help="Let somebody else in.", no_args_is_help=True)
    invites.command("provider")(invite_provider)
    invites.callback()(_group)
    app.add_typer(invites)


def _group() -> None:
    """Let somebody else in."""


def up(
    ctx: typer.Context,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="default: a free one, kept from then on")] = None,
    host: Annotated[str, typer.Option(help="address to listen at; a mesh VPN's for other machines")] = "127.0.0.1",
    ray: Annotated[str, typer.Option(help="embedded, none, or the address of a cluster that exists")] = "embedded",
    ray_token: Annotated[Path | None, typer.Option(metavar="FILE", help="file with the token of that cluster")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="certificate (PEM): speak https")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="its key (PEM), readable by you only")] = None,
    blobs: Annotated[str | None, typer.Option(metavar="s3://BUCKET/PREFIX", help="keep blobs in this bucket; said once, for a home without blobs")] = None,
    blobs_endpoint: Annotated[str | None, typer.Option(metavar="URL", help="its server, where that is not Amazon's")] = None,
    blob_ram: Annotated[int | None, typer.Option(metavar="MIB", min=0, max=1_048_576, help="RAM for copies of blobs that were read last; kept, in force from the next start on; default 128 before a bucket, 0 before a folder, which the kernel keeps in RAM itself")] = None,
    mirror: Annotated[list[str] | None, typer.Option(metavar="PLACE", help="copy the journal there as it grows: a folder (of another machine) or s3://BUCKET/PREFIX; may be said several times; kept; none: no more")] = None,
    mirror_sync: Annotated[list[str] | None, typer.Option(metavar="PLACE", help="the same, and nothing is confirmed before it is there; while that place is away no new work is taken")] = None,
    mirror_every: Annotated[float | None, typer.Option(metavar="SECONDS", min=0.05, max=3600, help="at least so often; default 1")] = None,
    mirror_endpoint: Annotated[str | None, typer.Option(metavar="URL", help="the server of s3:// mirrors, where that is not Amazon's")] = None,
    mirror_passphrase_file: Annotated[Path | None, typer.Option(metavar="FILE", help="mirror keys and settings too, encrypted by its first line; without it they stay here")] = None,
    archive: Annotated[str | None, typer.Option(metavar="PLACE", help="move the journal's sealed segments there, which no start needs: a folder or s3://BUCKET/PREFIX, a mirror's too; kept; it must stay within reach")] = None,
    price_rule: Annotated[str | None, typer.Option(metavar="RULE", help="how seats are priced from now on: ask or uniform; kept until another is said")] = None,
    due_rule: Annotated[str | None, typer.Option(metavar="Nx[,TIME]|never", help="when a job that waits goes before others: after N times what it will take, an hour at least and TIME at most (4x,1d until another is said)")] = None,
) -> None:  # fmt: skip
    """Start the market in the background, or show the one that runs."""
    settings: Settings = ctx.obj
    from cli.market_processes import start_market
    from market.price_rules import PRICE_RULES

    if price_rule is not None and price_rule not in PRICE_RULES:
        told = f"there is no price rule {price_rule!r}"
        raise usage(told, field="--price-rule", remedy=f"there is: {', '.join(PRICE_RULES)}")

    due = None if due_rule is None else due_rule_of(due_rule)
    if settings.joined_file.exists():
        told = f"this home has joined a market elsewhere ({settings.joined_file})"
        raise refused("home_joined", told, field="--home", remedy="name another --home for a market of your own")
    if blobs is not None:
        from cli.blob_places import settle_in_bucket

        settle_in_bucket(settings.home, blobs, blobs_endpoint)
    elif blobs_endpoint is not None:
        raise usage("--blobs-endpoint goes with --blobs", field="--blobs-endpoint", remedy="name --blobs too")
    if blob_ram is not None:
        from storage.blob_ram import say_ram_bytes

        say_ram_bytes(settings.home, blob_ram << 20)
    said_of_mirrors = mirror or mirror_sync or mirror_every or mirror_endpoint or mirror_passphrase_file or archive
    if said_of_mirrors:
        from cli.mirror_places import settle_mirrors

        every_ms = round(1000 * mirror_every) if mirror_every else None
        settle_mirrors(
            settings.home, mirror or [], mirror_sync or [], every_ms=every_ms, endpoint=mirror_endpoint,
            passphrase_file=mirror_passphrase_file, archive=archive,
        )  # fmt: skip
    found = start_market(settings.home, host=host, port=port, ray=ray, ray_token=ray_token, tls=_tls(tls_cert, tls_key))
    if price_rule is not None:
        found |= {"price_rule": connect(settings, "operator").set_price_rule(price_rule)["price_rule"]}
    if due is not None:
        found |= {"due_rule": connect(settings, "operator").set_due_rule(*due)["due_rule"]}
    if said_of_mirrors and found["already"]:
        log("torg: the mirrors are those of before until it starts anew: torg down, torg up")
    if blob_ram is not None and found["already"]:
        log("torg: blobs have the RAM of before until it starts anew: torg down, torg up")
    if settings.as_json:
        document(found)
        return
    said = "runs already" if found["already"] else "is up"
    print(f"The market {said}: {found['url']}  (home {settings.home})")
    if price_rule is not None:
        print(f"price rule {price_rule}: {PRICE_RULES[price_rule]}")


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate and key:
        return certificate, key
    if certificate or key:
        missing = "--tls-key" if certificate else "--tls-cert"
        raise usage(f"{missing} is missing", field=missing, remedy="a certificate and its key go together")
    return None


def down(ctx: typer.Context) -> None:
    """Pause the jobs at a durable round, settle, stop everything. Harmless when nothing runs."""
    settings: Settings = ctx.obj
    from cli.market_processes import stop_market

    if not settings.as_json:
        log("pausing jobs, settling, stopping…")
    found = stop_market(settings.home)
    if settings.as_json:
        document(found)
    else:
        print("The market is down." if found["was_running"] else "No market runs here.")


def status(ctx: typer.Context) -> None:
    """How the market is."""
    settings: Settings = ctx.obj
    from cli.heads import alarms_of

    told = connect(settings, "operator").status() | {"alarms": alarms_of(settings)}
    if settings.as_json:
        document(told)
        return
    for alarm in told["alarms"]:
        print(printable(f"ALARM: {alarm['market']} shows another history: {alarm['told']} (evidence: {alarm['file']})"))
    ray = told["ray_address"] or "not ready"
    print(f"{told['url']}  up {format_duration(round(1_000 * told['uptime_s']))}")
    print(
        f"offers {told['offers']}, jobs running {told['jobs_running']}, journal {counted(told['journal_records'], 'record')}, Ray {ray}"
    )
    rule = told.get("price_rule")
    if rule:
        from market.price_rules import PRICE_RULES

        print(f"price rule {rule}: {PRICE_RULES.get(rule, '')}; {counted(told.get('clearings', 0), 'clearing')}")
    due = told.get("due_rule")
    if due:
        most = format_duration(due["most_ms"])
        said = "never by waiting alone" if due["patience"] is None else f"after {due['patience']} × what it takes, {most} at most"
        print(f"a job that waits goes before others {said}")
    judged = calibration(told.get("calibration") or {})
    if judged:
        print(judged)
    if told.get("mirror_away"):
        print("NO NEW WORK IS TAKEN: a synchronous mirror does not have everything")
    for one in told.get("mirrors", []):
        print(mirror_line(one))
    if told.get("archive"):
        print(archive_line(told["archive"]))
    print(f"exchange pid {told['exchange_pid']}, books pid {told['books_pid'] or 'not up'}")


def mirror_line(told: dict[str, Any]) -> str:
    """How a mirror of the journal stands."""
    lag = "has everything"
    if told["lag_records"]:
        lag = f"lacks {counted(told['lag_records'], 'record')}, {counted(told['lag_bytes'], 'byte')}, for {format_duration(told['lag_ms'])} at most"
    keys = "" if told["has_keys"] else ", no keys"
    why = f": {told['error']}" if told["error"] else ""
    kind = "synchronous mirror" if told["sync"] else "mirror"
    return f"{kind} {told['place']} {told['state']}, {lag}{keys}{why}"


def archive_line(told: dict[str, Any]) -> str:
    """How the archive of the journal stands."""
    why = f": {told['error']}" if told["error"] else ""
    return f"archive {told['place']}: {told['archived']} segments are there, {told['waiting']} wait{why}"


def invite_provider(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="the provider's account name")] = None,
) -> None:
    """Print the one line that another machine needs to offer itself here."""
    settings: Settings = ctx.obj
    made = make_invite(settings, name or new_id("provider"))
    if settings.as_json:
        document(made)
    else:
        print(f"torg provide --price 0.45 --invite {made['code']}")


def make_invite(settings: Settings, member: str) -> dict[str, Any]:
    """Make a provider's account and the code for it: {member, code, url}."""
    from cli.invites import Invite, write_invite
    from market.wire import Refused

    client = connect(settings, "operator")
    try:
        key = client.add_member(member, "provider")["key"]
    except Refused as error:
        if error.status == 409:
            raise refused(
                error.code, error.message, field="--name", remedy=error.remedy or "choose another name"
            ) from error
        raise
    url = settings.market_url()
    return {"member": member, "code": write_invite(Invite(url, key)), "url": url}
