"""The token of a lease: it opens the machine's end of sessions in that lease's command, and nothing else.

It is made from the market's signing key, so that it is the same after a restart and is kept nowhere. It is of no use when
the lease is over.
"""

import hmac
from hashlib import sha256

PREFIX = "torg_lease_"


def lease_token(signing_key: bytes, lease: str, epoch: int) -> str:
    """The token of this lease in this epoch."""
    key = sha256(b"sessions of leases" + signing_key).digest()
    proof = hmac.new(key, f"{lease} {epoch}".encode(), "sha256").hexdigest()
    return f"{PREFIX}{lease}.{epoch}.{proof}"
