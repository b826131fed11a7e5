"""A provider's self-test as it stands behind it: a report with its signature, sent with its offer.

    {"report": {…}, "public_key": hex, "signature": hex}

The signature (Ed25519) is over the ASCII bytes `torg-selftest-1:` + SHA-256 of the report's canonical JSON. It says who
answers for the report, not that it is true: whoever is root on a machine can sign anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from market.checking import ISOLATIONS, MAX_INT, is_int, is_name, is_text
from storage.canonical import NotCanonical, digest_of
from storage.signing import is_signed_by, public_key_of, sign
from trainers.selftest import FORMAT

LEAST_HELD: Final = 25
"""A sandbox that fewer attempts were tried on counts as untested."""
MAX_ATTEMPTS: Final = 1000
_FIELDS: Final = {"format", "isolation", "machine", "groups", "held", "escaped", "not_applicable", "at_ms"}
_MACHINE: Final = {"kernel", "bubblewrap", "torg", "landlock"}

Json = dict[str, Any]


def signed(report: Json, key: bytes) -> Json:
    """With its signature. `key`: a raw Ed25519 private key, 32 bytes."""
    return {"report": report, "public_key": public_key_of(key), "signature": sign(key, _text(report))}


def fault(value: object) -> str | None:
    """What is wrong with a signed report as a provider sends it: its form, or its signature."""
    if not (isinstance(value, Mapping) and set(value) == {"report", "public_key", "signature"}):
        return "a report with public_key and signature"
    if not _is_report(value["report"]):
        return f"a report in the format {FORMAT}"
    try:
        right = is_signed_by(value["public_key"], _text(value["report"]), value["signature"])
    except NotCanonical:
        right = False
    return None if right else "a report that is signed by the key beside it"


def shown_isolation(asked: str, value: Mapping[str, Any] | None) -> str:
    """What an offer may show: `sandbox` only with a signed report by which a sandbox held."""
    if asked != "sandbox" or value is None:
        return "process"
    report = value["report"]
    return (
        "sandbox"
        if report["isolation"] == "sandbox" and not report["escaped"] and report["held"] >= LEAST_HELD
        else "process"
    )


def summary(value: Mapping[str, Any] | None) -> Json | None:
    """What readers of an offer are told of it."""
    if value is None:
        return None
    report = value["report"]
    told = {name: report[name] for name in ("held", "escaped", "groups", "at_ms")}
    return {**told, "machine": dict(report["machine"]), "public_key": value["public_key"]}


def _is_report(report: object) -> bool:
    if not (isinstance(report, Mapping) and set(report) == _FIELDS and report["format"] == FORMAT):
        return False
    machine = report["machine"]
    return (
        report["isolation"] in ISOLATIONS
        and isinstance(machine, Mapping)
        and set(machine) == _MACHINE
        and all(is_text(machine[name], 128) for name in ("kernel", "bubblewrap", "torg"))
        and is_int(machine["landlock"], 0, MAX_ATTEMPTS)
        and is_int(report["held"], 0, MAX_ATTEMPTS)
        and is_int(report["at_ms"], 0, MAX_INT)
        and all(_are_names(report[name]) for name in ("groups", "escaped", "not_applicable"))
    )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_ATTEMPTS and all(is_name(one) for one in value)


def _text(report: Mapping[str, Any]) -> bytes:
    return f"{FORMAT}:{digest_of(report)}".encode("ascii")
