"""Where the market is and who asks: the only place that reads the environment."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.arguments import Globals
from cli.errors import CliError, Exit, refused, unreachable


@dataclass(frozen=True, slots=True)
class Settings:
    """One invocation's surroundings. `url` and `key` are what the user named, else None."""

    home: Path
    url: str | None
    key: str | None
    as_json: bool
    color: bool
    ca: Path | None = None

    @property
    def joined_file(self) -> Path:
        """Which market this home has joined, as whom, and with which key (0600)."""
        return self.home / "joined.json"

    def market_url(self) -> str:
        """The named URL, else the one that `torg up` wrote into the home, or that this home has joined."""
        if self.url:
            return self.url.rstrip("/")
        if url := self._local_url():
            return url
        raise unreachable(
            f"no market is known here: {self.home / 'market.json'} is missing", "run `torg up` or name --url"
        )

    def trusted(self) -> Path | None:
        """The certificates to trust beside the machine's: those named, else what `torg up` noted of its own market."""
        if self.ca is not None or (self.url and self.url.rstrip("/") != self._local_url()):
            return self.ca
        found = self._known_market()
        return Path(str(found["ca"])) if found.get("ca") else None

    def key_for(self, role: str) -> str:
        """The named key, else the one that this home joined with, else the local account's. Local keys are never sent to another market's URL."""
        if self.key:
            return self.key
        if self.url and self.url.rstrip("/") != self._local_url():
            raise refused("key_missing", f"no key for {self.url}", field="--key", remedy="give --key or set TORG_KEY")
        joined = self._known_market().get("key")
        if joined:
            return str(joined)
        keys = read_json(self.home / "keys.json")
        if not keys or not keys.get(role):
            raise refused(
                "key_missing", f"no {role} key in {self.home / 'keys.json'}", field="--key", remedy="give --key"
            )
        return str(keys[role])

    def market_public_key(self) -> str | None:
        """The key with which the market of this home signs, where `torg up` has noted it."""
        found = read_json(self.home / "market.json")
        return str(found["public_key"]) if found and found.get("public_key") else None

    def _local_url(self) -> str | None:
        found = self._known_market()
        return str(found["url"]).rstrip("/") if found.get("url") else None

    def _known_market(self) -> dict[str, object]:
        """The market of this home, else the one that it has joined, else nothing."""
        return read_json(self.home / "market.json") or read_json(self.joined_file) or {}


def read_settings(named: Globals, environment: Mapping[str, str], *, terminal: bool) -> Settings:
    """Command line first, environment second, defaults last. An empty variable counts as unset."""
    home = named.home or environment.get("TORG_HOME")
    return Settings(
        home=Path(home).expanduser().absolute() if home else default_home(),
        url=named.url or environment.get("TORG_URL") or None,
        key=named.key or environment.get("TORG_KEY") or None,
        as_json=named.as_json,
        color=terminal and not environment.get("NO_COLOR"),
        ca=Path(ca).expanduser().absolute() if (ca := named.ca or environment.get("TORG_CA")) else None,
    )


def current_settings(named: Globals) -> Settings:
    """The settings of this process."""
    return read_settings(named, os.environ, terminal=sys.stdout.isatty())


def machines_zone() -> str:
    """The name of this machine's time zone; UTC where it does not say."""
    named = os.environ.get("TZ", "").removeprefix(":") or str(Path("/etc/localtime").resolve())
    return named.partition("zoneinfo/")[2] or (named if not named.startswith("/") else "UTC")


def default_home() -> Path:
    """The platform's user data directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("torg", appauthor=False))


def read_json(path: Path) -> dict[str, object] | None:
    """A JSON object from a file of the home; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError("home_unreadable", f"{path}: {error.strerror}", "--home", None, Exit.FAILED) from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CliError("home_broken", f"{path} is not JSON: {error}", "--home", "run `torg up` again") from error
    return found if isinstance(found, dict) else None
