"""The one line that a machine elsewhere needs: URL and key in a code that survives a chat window."""

import base64
import binascii
import json
from dataclasses import dataclass

from cli.errors import usage

PREFIX = "torg1_"


@dataclass(frozen=True, slots=True)
class Invite:
    """Where the market is and who one is there; where Ray is, the market says."""

    url: str
    key: str


def write_invite(invite: Invite) -> str:
    """`torg1_` and base64url of JSON, without padding."""
    content = json.dumps({"url": invite.url, "key": invite.key}, separators=(",", ":"))
    return PREFIX + base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def read_invite(code: str) -> Invite:
    """Read what `write_invite` wrote; a cut or foreign code is a usage error."""
    bare = code.strip()
    problem = usage(
        "the invite is not whole",
        field="--invite",
        remedy="copy the whole line of `torg invite provider`",
        code="bad_invite",
    )
    if not bare.startswith(PREFIX):
        raise problem
    body = bare.removeprefix(PREFIX)
    try:
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return Invite(str(found["url"]), str(found["key"]))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError):
        raise problem from None
