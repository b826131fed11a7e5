"""`torg provide`: offer this machine."""

import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import gpu_request, pair, price_nanos
from cli.errors import refused, usage
from cli.provide_lock import alone
from cli.settings import Settings
from cli.verbs import owner_options
from market.measurements import doubt_of
from market.owner_terms import LONGEST_NOTICE_MS

if TYPE_CHECKING:
    from market.hardware import GpuRequest

LEAVING_S = 15.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("provide")(provide)


def provide(
    ctx: typer.Context,
    price: Annotated[str, typer.Option(metavar="USD", help="per GPU-hour (a GPU named cpu is one core)")],
    gpus: Annotated[str, typer.Option(help="auto, RTX4090:2 or cpu:2")] = "auto",
    name: Annotated[str | None, typer.Option(help="of this machine; its folder keeps the offer's id")] = None,
    floor: Annotated[
        str | None, typer.Option(metavar="USD", help="interruptible, from this price per GPU-hour on")
    ] = None,
    region: Annotated[str, typer.Option(help="such as eu or us")] = "",
    share: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="a folder that jobs may read as share:NAME")
    ] = None,
    selftest: Annotated[
        bool, typer.Option(help="try to break out of the sandbox once, so that the offer may show isolation sandbox")
    ] = True,
    environments: Annotated[
        bool, typer.Option(help="build Python environments of wheels for commands that ask for them, by your own pip's settings")
    ] = True,
    network: Annotated[
        bool, typer.Option("--network", help="let commands that ask for it reach the public internet, and nothing near you")
    ] = False,
    network_allow: Annotated[
        list[str] | None, typer.Option(metavar="NET", help="and this network near you, such as a mirror's; and again for more")
    ] = None,
    network_deny: Annotated[
        list[str] | None, typer.Option(metavar="NET", help="but not this one, though it is public; and again for more")
    ] = None,
    notice: Annotated[
        str, typer.Option(metavar="TIME", help="that renters have to leave when you take the machine back")
    ] = "5s",
    price_between: Annotated[
        list[str] | None,
        typer.Option(metavar="HOURS=USD", help="another price in these hours, such as '22:00-06:00=0.20'; and again for more"),
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option("--zone", help="of these hours and of maintenance, such as Europe/Berlin; without, this machine's, and UTC"),
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="ID,…", help="the only customers that may rent; and again for more")
    ] = None,
    deny: Annotated[list[str] | None, typer.Option(metavar="ID,…", help="customers that may not rent")] = None,
    own: Annotated[
        list[str] | None, typer.Option(metavar="ID,…", help="customers that are you: their jobs come here first and cost nothing")
    ] = None,
    max_units_per_customer: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="of this machine that one customer may have at once")
    ] = None,
    max_hours_per_customer: Annotated[
        float | None, typer.Option(metavar="H", help="GPU-hours of this machine that one customer may have in a day (UTC)")
    ] = None,
    min_lease: Annotated[
        str | None, typer.Option(metavar="TIME", help="jobs that are expected to be done sooner stay away: 1h")
    ] = None,
    max_lease: Annotated[
        str | None, typer.Option(metavar="TIME", help="a lease that has lasted as long ends, with notice before: 8h")
    ] = None,
    maintenance: Annotated[
        list[str] | None,
        typer.Option(metavar="WINDOW", help="not for rent then: '02:00-06:00 sun', '2026-12-24T18:00/4h', in UTC; and again for more"),
    ] = None,
    when: Annotated[
        str, typer.Option(metavar="always|idle", help="idle: for rent only while nobody else uses its cards, or its cores")
    ] = "always",
    idle_for: Annotated[
        str | None, typer.Option(metavar="TIME", help="that it is idle before it is for rent: 10m without")
    ] = None,
    idle_load: Annotated[
        float | None, typer.Option(help="of each core, up to which a machine without cards is idle: 0.25 without")
    ] = None,
    idle_ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="of a program on a card that does not count; and again for more")
    ] = None,
    not_between: Annotated[
        list[str] | None,
        typer.Option(metavar="HOURS", help="such as '08:00-18:00 mon-fri', by this machine's clock; and again for more"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="the machine goes: 18:00, or 2026-12-24T18:00")
    ] = None,
    duration: Annotated[str | None, typer.Option("--for", metavar="TIME", help="that the machine is offered: 8h")] = None,
    invite: Annotated[
        str | None, typer.Option(metavar="CODE", help="line of `torg invite provider`; - reads stdin")
    ] = None,
    invite_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the same in a file, which no process list shows")
    ] = None,
) -> None:
    """Offer this machine for rent, in the foreground; Ctrl-C drains, a second one ends at once."""
    settings: Settings = ctx.obj
    asked = gpu_request(gpus)
    nanos = price_nanos(price, "--price")
    floor_nanos = price_nanos(floor, "--floor") if floor else None
    if floor_nanos is not None and floor_nanos > nanos:
        raise usage(f"--floor {floor} is above --price {price}", field="--floor", code="floor_above_price")
    called, shares = _name(name), _shares(share or [])
    notice_ms = _notice_ms(notice)
    if time_zone is not None and not price_between and not maintenance:
        raise usage(
            "--zone says nothing without --price-between or --maintenance", field="--zone", remedy="add one, or leave this out"
        )
    prices, zone = owner_options.prices(price_between, time_zone)
    windows = owner_options.windows(maintenance, time_zone, "--maintenance")
    owner_options.note_what_is_over(windows)
    times = {**owner_options.lease_times(min_lease, max_lease, notice_ms), "maintenance": windows}
    watched = owner_options.watched(when, idle_for, idle_load, idle_ignore, not_between)
    until_ms = owner_options.until_ms(until, duration, notice_ms, time.time())
    members = {
        "allow": owner_options.members(allow, "--allow"), "deny": owner_options.members(deny, "--deny"),
        "own": owner_options.members(own, "--own"), "max_units_per_customer": max_units_per_customer,
        "max_unit_ms_per_customer_day": owner_options.day_ms(max_hours_per_customer),
    }  # fmt: skip
    networks = {
        "network": network, "network_allow": _networks(network_allow, "--network-allow", network),
        "network_deny": _networks(network_deny, "--network-deny", network),
    }  # fmt: skip
    url, key = _market(settings, invite, invite_file)
    ca = settings.ca if invite or invite_file else settings.trusted()
    home = provider_home(settings, name)
    config = {
        "url": url, "key": key, "ca": str(ca) if ca else None, "offer": _offer_id(home), "home": str(home), "name": called, "gpu": asked.gpu or "auto",
        "units": _units(asked), "price_nanos_per_gpu_hour": nanos, "floor_price_nanos_per_gpu_hour": floor_nanos,
        "region": region, "shares": shares, "selftest": selftest, "notice_ms": notice_ms,
        "watched": watched, "prices": prices, "zone": zone, **members, **networks, **times,
        "until_ms": until_ms, "drain_s": max(LEAVING_S, notice_ms / 1000), "environments": environments,
    }  # fmt: skip
    with alone(home):
        _run(settings, home, config)


def provider_home(settings: Settings, name: str | None) -> Path:
    """The folder of this machine's provider, made if it is missing."""
    home = settings.home / "providers" / _name(name)
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    return home


def _run(settings: Settings, home: Path, config: dict[str, Any]) -> None:
    from cli.host import Host
    from cli.providing import HostTeller

    file = home / "provider.json"
    _write_secret(file, config)
    command = [sys.executable, "-m", "market.actors.provider_host", "--config", str(file)]
    with HostTeller(settings, config) as teller:
        host = Host(command, home / "host.log", teller.hear)
        code = host.run()
    if code < 0 and host.told_to_end:
        raise KeyboardInterrupt
    teller.end(code, home / "host.log")


def _market(settings: Settings, invite: str | None, invite_file: Path | None) -> tuple[str, str]:
    from cli.invites import read_invite

    if invite and invite_file:
        raise usage("--invite and --invite-file say the same thing", field="--invite", remedy="give one")
    code = invite
    if invite == "-":
        code = sys.stdin.readline()
    elif invite_file is not None:
        try:
            code = invite_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise refused("not_readable", f"{invite_file}: {error}", field="--invite-file") from error
    if code is None:
        return settings.market_url(), settings.key_for("provider")
    found = read_invite(code)
    return found.url, found.key


def _notice_ms(text: str) -> int:
    from storage.units import TimeError, parse_duration_ms

    try:
        notice_ms = parse_duration_ms(text)
    except TimeError as error:
        raise usage(f"--notice {error.message}", field="--notice", code=error.code) from None
    if notice_ms > LONGEST_NOTICE_MS:
        raise usage(f"--notice {text!r} is too long", field="--notice", remedy="from 0s to 1h", code="out_of_range")
    return notice_ms


def _networks(given: list[str] | None, option: str, network: bool) -> list[str]:
    from trainers.outward import rules

    if given and not network:
        raise usage(f"{option} says nothing without --network", field=option, remedy="add --network, or leave it out")
    if len(given or ()) > rules.MOST_NETWORKS:
        raise usage(f"{option} is given {len(given or ())} times", field=option, remedy=f"at most {rules.MOST_NETWORKS}")
    try:
        return [str(rules.network(text)) for text in given or ()]
    except rules.BadTarget as bad:
        raise usage(f"{option} {bad}", field=option) from None


def _units(asked: "GpuRequest") -> int | None:
    """How many; None lets the host count its cards. Cores that other hosts on this machine offer are taken.

    More cores than there are would be refused by the market, once all the rest is done: here by the same rule.
    """
    if asked.gpu == "cpu":
        doubt = doubt_of("cpu", asked.gpus or 1, 0, {"cores": os.cpu_count() or 1})
        if doubt is not None:
            raise refused("hardware_mismatch", doubt.message, field="--gpus", remedy=doubt.remedy)
    if asked.gpu is not None or asked.gpus is not None or _has_cards():
        return asked.gpus
    from cli.host import running_hosts

    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else (os.cpu_count() or 1)
    taken = sum(int(one.get("units") or 1) for one in running_hosts() if one.get("gpu") in ("cpu", "auto"))
    if taken >= cores:
        raise refused(
            "no_cores_left",
            f"all {cores} cores of this machine are offered already",
            field="--gpus",
            remedy="--gpus cpu:1",
        )
    return cores - taken


def _has_cards() -> bool:
    return any(Path("/proc/driver/nvidia/gpus").glob("*"))


def _offer_id(home: Path) -> str:
    """The same offer id after a restart, so that the offer is listed again instead of twice."""
    from cli.session import new_id

    file = home / "offer"
    if file.exists():
        return file.read_text(encoding="ascii").strip()
    made = new_id("offer")
    file.write_text(made + "\n", encoding="ascii")
    return made


def _shares(given: list[str]) -> dict[str, str]:
    shares: dict[str, str] = {}
    for text in given:
        name, path = pair(text, "--share")
        folder = Path(path).expanduser().absolute()
        if not NAME.fullmatch(name):
            raise usage(f"--share name {name!r} is not a name", field="--share", remedy="letters, digits, . _ -")
        if name in shares:
            raise usage(f"--share {name} is given twice", field="--share")
        if not folder.is_dir():
            raise usage(f"--share {name}: {folder} is not a folder", field="--share", code="no_such_folder")
        shares[name] = str(folder)
    return shares


def _name(given: str | None) -> str:
    name = given or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node().split(".")[0]) or "machine"
    if not NAME.fullmatch(name):
        raise usage(f"--name {name!r} is not a name", field="--name", remedy="letters, digits, . _ -; at most 63")
    return name


def _write_secret(path: Path, content: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
