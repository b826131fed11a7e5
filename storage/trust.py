"""What a client of a market believes in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Trusts what the machine trusts, and `ca`. Raises OSError and SSLError when that cannot be read."""
    import ssl

    context = ssl.create_default_context()
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the market's own certificate may be all that is named
    return context
