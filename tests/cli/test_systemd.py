"""examples/systemd: units that name what torg really has. Their order of events is the market's own, tested elsewhere."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import build
from market.homes import Home
from storage.units import parse_duration_ms

UNITS = Path(__file__).parents[2] / "examples" / "systemd"


def service(name: str) -> configparser.SectionProxy:
    """What a unit says of its service. A name that stands twice is an error here."""
    unit = configparser.RawConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((UNITS / name).read_text(encoding="utf-8"))
    return unit["Service"]


@pytest.mark.parametrize(
    ("unit", "said", "verb"),
    [
        ("torg-market.service", "ExecStart", "up"),
        ("torg-market.service", "ExecStop", "down"),
        ("torg-provider.service", "ExecStart", "provide"),
    ],
)
def test_a_unit_calls_what_there_is(unit: str, said: str, verb: str) -> None:
    program, *arguments = shlex.split(service(unit)[said])
    assert program == "/opt/torg/bin/torg"
    assert arguments[0] == verb
    command = get_command(build([verb])).commands[verb]  # type: ignore[attr-defined]
    command.make_context(verb, arguments[1:])  # refuses an option that there is not, or a value out of range


def test_the_market_is_known_by_its_supervisor() -> None:
    market = service("torg-market.service")
    name, _, home = market["Environment"].partition("=")
    assert name == "TORG_HOME"
    assert market["PIDFile"] == str(Home(Path(home)).pid_file("supervisor"))
    assert home == f"/var/lib/{market['StateDirectory']}"
    assert parse_duration_ms(market["TimeoutStopSec"].removesuffix("in")) > 30_000, "jobs have half a minute to pause"


def test_renters_have_their_notice_before_systemd_loses_patience() -> None:
    provider = service("torg-provider.service")
    arguments = shlex.split(provider["ExecStart"])
    notice_ms = parse_duration_ms(arguments[arguments.index("--notice") + 1])
    assert parse_duration_ms(provider["TimeoutStopSec"].removesuffix("in")) >= notice_ms + 30_000
    assert provider["KillMode"] == "mixed", "SIGTERM is for torg alone: its workers are told by it"
