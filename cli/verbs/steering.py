"""Which offers a steering verb of `torg provider` means."""

from cli.errors import refused
from cli.session import connect
from cli.settings import Settings

ROLE = "operator"
"""The market's own account may steer every offer; a provider elsewhere has only the key that it was given."""


def offers_of(settings: Settings, target: str) -> list[str]:
    """The ids of the offer, or of all offers of the provider or machine, of this name. Raises CliError where that is none, or not clear."""
    offers = connect(settings, ROLE).offers()
    found = [one for one in offers if target in (one["id"], one["provider"])] or [one for one in offers if target == one.get("name")]
    if not found:
        what = "is neither an offer that is listed, nor a machine or provider with such"
        raise refused("unknown_offer", f"{target!r} {what}", field="OFFER", remedy="`torg provider ls` shows all")
    owners = {one["provider"]: one["id"] for one in found}
    if len(owners) > 1:
        which = ", ".join(f"{offer} of {owner}" for owner, offer in owners.items())
        raise refused("which_offer", f"{target!r} is a machine of several providers: {which}", field="OFFER", remedy="name the offer")
    return [one["id"] for one in found]
