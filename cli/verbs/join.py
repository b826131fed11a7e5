"""`torg join`: become a member of a market elsewhere, with a key that this machine makes and keeps."""

import secrets
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import refused, usage
from cli.output import document
from cli.session import new_id
from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("join")(join)


def join(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL")],
    code: Annotated[str, typer.Argument(metavar="CODE", help="of `torg members invite`; - reads stdin")],
    name: Annotated[str | None, typer.Option(help="what one is called there; default: made up, or the invitation's")] = None,
) -> None:
    """Join a market by an invitation. The key stays here (0600); from now on torg asks that market."""
    settings: Settings = ctx.obj
    bare = (sys.stdin.readline() if code == "-" else code).strip()
    if not bare.isascii() or not bare.startswith("join_") or bare.count("_") < 2 or len(bare) > 256:
        raise usage("the code is not whole", field="CODE", remedy="copy the whole line of `torg members invite`", code="bad_code")
    _check_home(settings, url)
    joined = join_market(settings, url.rstrip("/"), bare, name)
    if settings.as_json:
        document({key: value for key, value in joined.items() if key != "key"})
        return
    team = f", team {joined['team']}" if joined.get("team") else ""
    print(f"You are {joined['member']}, a {joined['role']}{team}. The key is in {settings.joined_file} (only you can read it).")
    first = "torg provide --price 0.45" if joined["role"] == "provider" else "torg offers"
    print(f"From now on torg asks {joined['url']}; try `{first}`.")


def _check_home(settings: Settings, url: str) -> None:
    from cli.settings import read_json

    other = "name another --home"
    if (settings.home / "market.json").exists() or (settings.home / "keys.json").exists():
        raise refused("home_has_market", f"{settings.home} is the home of a market", field="--home", remedy=other)
    known = read_json(settings.joined_file)
    if known:
        message = f"this home has joined {known.get('url')} as {known.get('member')} already"
        raise refused("already_joined", message, field="--home", remedy=f"{other}, or remove {settings.joined_file}")


def join_market(settings: Settings, url: str, code: str, name: str | None) -> dict[str, Any]:
    """The key is on the disk before the market has its hash, so that an answer which is lost can be asked for again."""
    from cli.quick import QuickMarket
    from cli.session import PATIENCE_S, TIMEOUT_S
    from cli.settings import read_json
    from market.homes import write_json
    from market.wire import Refused

    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    begun_file = settings.joined_file.with_name("joining.json")
    begun = read_json(begun_file) or {}
    mark = sha256(code.encode()).hexdigest()
    if (begun.get("url"), begun.get("code_sha256")) != (url, mark):
        begun = {"url": url, "code_sha256": mark, "key": f"torg_{secrets.token_urlsafe(32)}", "made_up": new_id("member")}
        write_json(begun_file, begun, mode=0o600)
    key = str(begun["key"])
    market = QuickMarket(url, None, timeout_s=TIMEOUT_S, patience_s=PATIENCE_S, ca=settings.ca)
    hashed = sha256(key.encode()).hexdigest()
    try:
        answer = market.join(code, hashed, member=name)
    except Refused as error:
        if name is not None or error.field != "member":
            raise
        answer = market.join(code, hashed, member=str(begun["made_up"]))  # the invitation names nobody
    told = {name: answer[name] for name in ("member", "role", "team", "market")}
    joined = {**told, "url": url, "key": key, "ca": _kept_ca(settings)}
    write_json(settings.joined_file, joined, mode=0o600)
    begun_file.unlink()
    return joined


def _kept_ca(settings: Settings) -> str | None:
    """The certificates that were named, copied beside the key so that they are still there tomorrow."""
    if settings.ca is None:
        return None
    kept = settings.home / "joined-ca.pem"
    if settings.ca != kept:
        shutil.copyfile(settings.ca, kept)
    return str(Path(kept))
