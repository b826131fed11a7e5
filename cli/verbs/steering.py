"""Which offers a steering verb of `torg provider` means."""

from cli.errors import refused
from cli.session import connect
from cli.settings import Settings

ROLE = "operator"
"""The market's own account may steer every offer; a provider elsewhere has only the key that it was given."""


def offers_of(settings: Settings, target: str) -> list[str]:
    """The ids of the offer, or of all offers of the provider, of this name. Raises CliError where there is none."""
    found = [one for one in connect(settings, ROLE).offers() if target in (one["id"], one["provider"])]
    alive = [one["id"] for one in found if one["state"] != "withdrawn"]
    if not alive:
        what = "is withdrawn already" if found else "is neither an offer nor a provider with offers"
        raise refused("unknown_offer", f"{target!r} {what}", field="OFFER", remedy="`torg provider ls` shows all")
    return alive
