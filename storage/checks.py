"""What every bundle has: a body, its digest, a signature; and the way in which one is examined without raising."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from storage.canonical import NotCanonical, digest_of
from storage.signing import NoSignatures, is_signed_by, public_key_of, sign


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it holds, a sentence that says what was found, and where it does not hold the refusal's code."""

    name: str
    ok: bool
    detail: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class BundleVerification:
    """All checks of a bundle; `ok` if every one holds."""

    ok: bool
    checks: tuple[Check, ...]


class Wrong(Exception):
    """A check does not hold; the text is its detail, the code (by default the check's name) names the refusal."""

    def __init__(self, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.code = code


class Examination:
    """Runs one check after the other; what is not in the form of a bundle fails its check."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def check(self, name: str, examine: Callable[[], str]) -> bool:
        """Whether it holds: `examine` returns a sentence, or raises Wrong."""
        try:
            found = Check(name, True, examine())
        except Wrong as wrong:
            found = Check(name, False, str(wrong), wrong.code or name)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            found = Check(name, False, f"not in the form of a bundle: {type(error).__name__}: {error}", "bad_form")
        self._checks.append(found)
        return found.ok

    @property
    def sound(self) -> bool:
        """Whether every check so far holds."""
        return all(each.ok for each in self._checks)

    def verdict(self) -> BundleVerification:
        """What came of it."""
        return BundleVerification(self.sound, tuple(self._checks))


def demand(holds: bool, detail: str, code: str = "") -> None:
    """Raise Wrong unless it holds."""
    if not holds:
        raise Wrong(detail, code)


def signed_text(kind: str, digest: str) -> bytes:
    """What is signed of a bundle of this format."""
    return f"{kind}:{digest}".encode("ascii")


def seal(kind: str, body: Mapping[str, Any], signing_key: bytes | None) -> dict[str, Any]:
    """{format, body, digest, signature}; signed with a raw Ed25519 key (32 bytes; needs `cryptography`) or not at all."""
    digest = digest_of(body)
    signature = None if signing_key is None else _sign(kind, signing_key, digest)
    return {"format": kind, "body": dict(body), "digest": digest, "signature": signature}


def _sign(kind: str, signing_key: bytes, digest: str) -> dict[str, str]:
    value = sign(signing_key, signed_text(kind, digest))
    return {"algorithm": "ed25519", "public_key": public_key_of(signing_key), "value": value}


def check_form(bundle: Any, kind: str, names: set[str], beside: Set[str] = frozenset()) -> str:
    """The fields of a bundle and of its body. beside: fields of the bundle that may be there, and that nobody signs as a whole."""
    demand(isinstance(bundle, dict) and bundle.get("format") == kind, f"this is not a {kind}")
    four = {"format", "body", "digest", "signature"}
    found = set(bundle) - beside
    demand(found == four, f"fields of the bundle are missing or unknown: {_odd(found, four)}", "bad_form")
    body = bundle["body"]
    demand(isinstance(body, dict), "the body is no object", "bad_form")
    demand(set(body) == names, f"fields of the body are missing or unknown: {_odd(set(body), names)}", "bad_form")
    return f"a {kind} of job {bundle['body']['job']}"


def _odd(found: set[str], wanted: set[str]) -> str:
    return ", ".join(sorted(map(str, found ^ wanted))[:9])


def check_digest(bundle: Mapping[str, Any]) -> str:
    """Whether the body is the one that was signed."""
    try:
        found = digest_of(bundle["body"])
    except NotCanonical as error:
        raise Wrong(str(error)) from error
    demand(found == bundle["digest"], f"the body has the digest {found}, and the bundle says {bundle['digest']}")
    return f"the body has the digest {found[:16]}…"


def check_signature(bundle: Mapping[str, Any], kind: str, public_key: str | None) -> str:
    """Whether it is signed, and by the key asked for (hex) if there is one."""
    signature = bundle["signature"]
    if signature is None:
        demand(public_key is None, "the bundle is not signed, and a signature by a certain key was asked for", "not_signed")
        return "not signed"
    demand(set(signature) == {"algorithm", "public_key", "value"}, "a field of the signature is missing or unknown")
    demand(signature["algorithm"] == "ed25519", f"unknown algorithm {signature['algorithm']!r}")
    owner, value = str(signature["public_key"]), str(signature["value"])
    demand(owner == owner.lower() and value == value.lower(), "key and signature are written in lower-case hex")
    asked = f"signed by the key {owner}, not by {public_key}, the one asked for"
    demand(public_key is None or owner == public_key, asked, "stranger")
    try:
        right = is_signed_by(owner, signed_text(kind, str(bundle["digest"])), value)
    except NoSignatures:
        told = "the package `cryptography` is missing, so the asked-for key cannot be checked"
        demand(public_key is None, told, "no_cryptography")
        return "skipped: the package `cryptography` is not installed here"
    demand(right, f"the signature is not by the key {owner[:16]}…", "stranger")
    if public_key is None:
        return f"signed by whoever owns the key {owner}, which the bundle itself names"
    return f"signed by the key asked for, {owner}"
