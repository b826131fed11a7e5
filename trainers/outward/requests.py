"""The first bytes that a command's client sends to the gateway: an HTTP proxy's request, read with suspicion. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from trainers.outward.rules import BadTarget, target

MAX_HEAD_BYTES: Final = 32 << 10

_LINE: Final = re.compile(rb"([A-Z]{3,10}) ([\x21-\x7e]{1,16384}) HTTP/1\.[01]")
_URL: Final = re.compile(r"http://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_DROPPED: Final = (b"proxy-", b"connection:", b"keep-alive:")


class BadRequest(ValueError):
    """A head that is no request of a proxy's client; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """Whom to dial. `head` is what to send there first: nothing when a tunnel was asked for (`tunnel`)."""

    host: str
    port: int
    tunnel: bool
    head: bytes = b""


def parse(head: bytes) -> Request:
    """A head up to and including its empty line: `CONNECT host:port`, or a method with a whole http:// URL.

    The latter goes on in origin form, with `Connection: close`, so that nothing else follows on the same connection.
    Raises BadRequest.
    """
    lines = head.split(b"\r\n")
    found = _LINE.fullmatch(lines[0])
    if found is None:
        raise BadRequest("its first line is no HTTP/1 request")
    if any(line[:1] in (b" ", b"\t") or b"\n" in line for line in lines[1:]):
        raise BadRequest("it has a header of several lines")
    method, where = found[1], found[2].decode("ascii")
    try:
        if method == b"CONNECT":
            host, port = target(where)
            return Request(host, port, tunnel=True)
        url = _URL.fullmatch(where)
        if url is None:
            raise BadRequest("it names no http:// address: this is a proxy, see HTTP_PROXY")
        authority, path = url[1].rpartition("@")[2], url[2]
        host, port = target(authority, 80)
    except BadTarget as bad:
        raise BadRequest(str(bad)) from None
    path = path.partition("#")[0]
    kept = [line for line in lines[1:] if line and not line.lower().startswith((*_DROPPED, b"host:"))]
    first = b"%s %s HTTP/1.1" % (method, (path if path.startswith("/") else "/" + path).encode("ascii"))
    return Request(host, port, False, b"\r\n".join([first, b"Host: " + authority.encode("ascii"), *kept, b"Connection: close", b"", b""]))
