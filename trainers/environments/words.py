"""What pip says of a build that failed: whose it is, and what of it a customer may read. Pure.

What a customer reads has no address in it: an owner's index may be a private one, with a password in its address.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

TAIL_LINES: Final = 12
TAIL_CHARACTERS: Final = 1_500
_NETWORK: Final = re.compile(
    r"Retrying \(|NewConnectionError|ConnectionError|ConnectTimeout|ReadTimeout|SSLError|ProxyError|NameResolutionError"
    r"|Could not fetch URL \S+ (?!4(?:04|10) Client)|5\d\d Server Error|4(?!04|10)\d\d Client Error"
    r"|Network is unreachable|timed out"
)
_MACHINE: Final = re.compile(r"No space left on device|Permission denied|Read-only file system|Disk quota exceeded|\(constraint\)")
_REQUIREMENTS: Final = re.compile(
    r"No matching distribution found|Could not find a version that satisfies|ResolutionImpossible|conflicting dependencies"
    r"|Invalid requirement|Invalid version|Invalid specifier|THESE PACKAGES DO NOT MATCH THE HASHES|is not a supported wheel"
    r"|requires a different Python|resolution-too-deep|Could not install packages due to an OSError: \[Errno 27\]|File too large"
    r"|outside the target directory|has a file .* trying to install outside|is invalid|MemoryError|inconsistent (?:name|version)"
)
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PATH: Final = re.compile(r"(?<![\w.…/])(?:/[\w.+@~-]+)+/(?=[\w.+@~-]+)")
_HOST: Final = re.compile(r"host='[^']*'")
_QUIET: Final = ("Looking in ", "WARNING: Location ", "WARNING: Url ", "[notice]")


class Verdict(Enum):
    """Whose failure it is."""

    REQUIREMENTS = "the customer's requirements"
    MACHINE = "this machine"


def verdict(text: str, status: int) -> Verdict:
    """Whose failure it is that pip ended with this status, having printed and logged that. A network that failed excuses the
    customer; an index that has no such package (404) does not.
    """
    if status < 0 or _NETWORK.search(text) or _MACHINE.search(text):
        return Verdict.MACHINE
    return Verdict.REQUIREMENTS if _REQUIREMENTS.search(text) else Verdict.MACHINE


def last_words(text: str) -> str:
    """Its last lines, without addresses, hosts, folders of the machine and places to look in."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith(_QUIET)]
    told = [_HOST.sub("host='…'", _PATH.sub("…/", _ADDRESS.sub("…", line))) for line in lines[-TAIL_LINES:]]
    return "\n".join(told)[-TAIL_CHARACTERS:]
