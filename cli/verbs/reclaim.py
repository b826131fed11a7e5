"""`torg provider reclaim`, `release` and `status`: the owner takes its machine back, lets it again, and sees how it stands.

They speak with the provider's host on this machine and need no market.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import refused, usage
from cli.output import document, log, printable
from cli.provide_lock import is_provided
from cli.settings import Settings
from cli.verbs.owner_options import duration_ms
from storage.units import TEN_YEARS_MS, counted, format_instant

if TYPE_CHECKING:
    from market.reclaiming import Hold

SILENCE_S = 200.0  # a host that makes a worker just now is done with that before it hears its owner
Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="of the provider or its offer; needless where there is one")
]


def register(group: typer.Typer) -> None:
    """Add the verbs to `torg provider`."""
    group.command("reclaim")(reclaim)
    group.command("release")(release)
    group.command("status")(status)


def reclaim(
    ctx: typer.Context,
    name: Name = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="how many to take back; all of them without")] = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="such as 2h; without, until `torg provider release`")
    ] = None,
    notice: Annotated[
        str | None, typer.Option(metavar="TIME", help="give renters less time to leave than the offer promises: 0s")
    ] = None,
    why: Annotated[str, typer.Option(help="shown in `torg provider ls`")] = "its owner uses it",
) -> None:
    """Take this machine back from whoever rents it; returns when it is free."""
    settings: Settings = ctx.obj
    until_ms = None if duration is None else time.time_ns() // 1_000_000 + _held_ms(duration)
    wish: dict[str, Any] = {"ask": "reclaim", "gpus": gpus, "why": why[:200], "until_ms": until_ms}
    if notice is not None:
        wish["notice_s"] = duration_ms(notice, "--notice") / 1000
    home = _home(settings, name)
    if gpus is not None:
        _check_units(settings, home, gpus)
    last = _ask(settings, home, wish)
    if last is None:
        from market.reclaiming import Hold

        _note(home, Hold(gpus or 10**6, "reclaim", why[:200], until_ms))
        last = {"event": "free", "gpus": gpus, "seconds": 0.0, "leases": [], "told": False, "running": False}
    if settings.as_json:
        document({"provider": home.name, **_plain(last), "until_ms": until_ms})
        return
    if last.get("running") is False:
        print(f"{home.name} does not run: the machine is yours. It is paused when it starts.")
    else:
        moved = f", {counted(len(last['leases']), 'renter')} moved" if last["leases"] else ""
        print(f"{home.name}: {last['gpus']} free after {last['seconds']:.1f} s{moved}")
    if last.get("running", True) and not last["told"]:
        log("the market is away: it will be told")
    over = "in " + duration if duration else "with `torg provider release`"
    print(f"Not for rent until then; it is offered again {over}.")


def release(ctx: typer.Context, name: Name = None) -> None:
    """Offer what was taken back again."""
    settings: Settings = ctx.obj
    home = _home(settings, name)
    last = _ask(settings, home, {"ask": "release"})
    if last is None:
        from market.reclaiming import Hold

        _note(home, Hold())
        last = {"event": "released", "gpus": 0, "why": "", "told": False, "running": False}
    if settings.as_json:
        document({"provider": home.name, **_plain(last)})
    elif last["gpus"]:
        print(f"{home.name} stays paused: {printable(str(last['why']))}")
    else:
        print(f"{home.name} is for rent again." + ("" if last["told"] else " The market will be told."))


def status(ctx: typer.Context, name: Name = None) -> None:
    """What this machine lends now, what it holds back, and why."""
    settings: Settings = ctx.obj
    home = _home(settings, name)
    last = _ask(settings, home, {"ask": "status"})
    if last is None and is_provided(home):
        raise refused("waiting", f"{home.name} waits for the market and lends nothing", field="NAME", remedy="it goes on when the market is back")
    if last is None:
        raise refused(
            "not_running", f"{home.name} does not run", field="NAME", remedy="`torg provide` starts it"
        )
    if settings.as_json:
        document({"provider": home.name, **_plain(last)})
        return
    held = last["held"]
    free = max(0, last["units"] - last["leased"] - held["gpus"])
    print(f"{home.name}: {last['leased']} of {last['units']} lent, {held['gpus']} held, {free} free")
    for lease in last["leases"]:
        print(f"lent: {lease['gpus']} to {lease['job']} ({lease['id']})")
    if held["gpus"]:
        until = "" if held["until_ms"] is None else f", until {format_instant(held['until_ms'])}"
        print(printable(f"held: {held['why'] or held['reason']}{until}"))
    if last["until_ms"] is not None:
        print(f"goes: {format_instant(last['until_ms'])}")


def _ask(settings: Settings, home: Path, wish: dict[str, Any]) -> dict[str, Any] | None:
    """The host's last answer, its steps shown meanwhile; None when no host runs."""
    from market.provider_control import NotRunning, ask

    try:
        for answer in ask(home, wish, SILENCE_S):
            if answer.get("last"):
                return answer
            if said := _step(answer):
                log(printable(said))
    except NotRunning:
        return None
    return None


def _step(answer: dict[str, Any]) -> str:
    if answer["event"] == "notice":
        return f"{answer['lease']} of {answer['job']} has {answer['notice_s']:g} s to leave"
    if answer["event"] == "left":
        return f"left at a boundary: {', '.join(answer['leases']) or 'nobody, the notice is over'}"
    return ""


def _plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("event", "last")}


def _note(home: Path, hold: "Hold") -> None:
    """For a host that does not run: it reads this when it starts."""
    from market.provider_control import read_holds, write_holds

    holds = read_holds(home)
    holds.set("owner", hold)
    write_holds(home, holds)


def _home(settings: Settings, name: str | None) -> Path:
    """The folder of the provider that is meant."""
    everywhere = sorted((settings.home / "providers").glob("*/offer"))
    homes = [path.parent for path in everywhere]
    if name is None and len(homes) > 1:
        homes = [home for home in homes if (home / "control.sock").exists()] or homes
    names = ", ".join(path.parent.name for path in everywhere)
    if name is None and len(homes) == 1:
        return homes[0]
    if name is None:
        problem = f"more than one provider is here: {names}" if homes else "no provider runs on this machine"
        raise refused(
            "which_provider", problem, field="NAME", remedy="name one" if homes else "`torg provide` starts one"
        )
    for home in homes:
        if name in (home.name, (home / "offer").read_text(encoding="ascii").strip()):
            return home
    raise refused(
        "unknown_provider",
        f"{name!r} is no provider of this machine",
        field="NAME",
        remedy=names or "`torg provide` starts one",
    )


def _held_ms(text: str) -> int:
    found = duration_ms(text, "--for")
    if not 0 < found <= TEN_YEARS_MS:
        raise usage(f"--for {text!r} is out of range", field="--for", remedy="above 0s, at most 3650d", code="out_of_range")
    return found


def _check_units(settings: Settings, home: Path, gpus: int) -> None:
    """Refuse more than the host says that there are; where none runs, nobody has counted."""
    known = _ask(settings, home, {"ask": "status"})
    if known is not None and gpus > known["units"]:
        remedy = f"{home.name} has {known['units']}; without it, all of them"
        raise usage(f"--gpus {gpus} is out of range", field="--gpus", remedy=remedy, code="out_of_range")
