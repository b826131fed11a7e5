"""Whom a command may reach when its offer and its job both allow the network: the public internet, and nobody near. Pure.

Not the provider's machine, not its network, not the addresses where clouds hand out keys; also not through an address of
another form that leads there (IPv4 within IPv6, 6to4, NAT64, Teredo). Names are resolved by the caller, and what is
checked here is the address that is then dialled, so no name can change its mind in between.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAIL: Final = frozenset({25, 465, 587})
"""Ports to which rented machines send what nobody asked for."""
MOST_NETWORKS: Final = 64

# public by their numbers, and yet answered by the machine below a rented one
_METADATA: Final = {
    ipaddress.ip_address("168.63.129.16"): "Azure's agent",
    ipaddress.ip_address("169.254.169.254"): "the cloud's metadata",
    ipaddress.ip_address("fd00:ec2::254"): "the cloud's metadata",
    ipaddress.ip_address("100.100.100.200"): "the cloud's metadata",
}
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_TARGET: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,64})\]|(?P<host>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")


class BadTarget(ValueError):
    """A host and port, or a network, that cannot be read; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class OutwardRules:
    """What an owner adds to the rules of everybody.

    Args:
        allowed: networks that may be reached although they are near, such as a campus's mirror of packages. They win.
        denied: networks that may not be reached although they are public, such as the provider's own outer address.
    """

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.allowed, *self.denied):
            network(text)


def network(text: str) -> Network:
    """A network such as 10.1.2.0/24, or one address. Raises BadTarget."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BadTarget(f"{text!r} is no network such as 10.1.2.0/24: {error}") from None


def target(text: str, default_port: int | None = None) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port). Raises BadTarget."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise BadTarget(f"{text[:80]!r} is no host and port")
    host, port = found["v6"] or found["host"], int(found["port"] or default_port or 0)
    if not 1 <= port <= 65_535:
        raise BadTarget(f"{text[:80]!r} has no port from 1 to 65535")
    return host, port


class Judge:
    """Decides about addresses. `own`: the networks that this machine is in, as `interface_networks` finds them."""

    def __init__(self, rules: OutwardRules, own: Iterable[Network] = ()) -> None:
        self._allowed = [network(text) for text in rules.allowed]
        self._denied = [network(text) for text in rules.denied]
        self._own = list(own)

    def refusal(self, address: str, port: int) -> str | None:
        """Why nobody may be dialled there, or None. `address`: an IPv4 or IPv6 address as text, a zone ignored."""
        given = ipaddress.ip_address(address.partition("%")[0])
        forms = list(_forms(given))
        if any(form in one for one in self._allowed for form in forms if form.version == one.version):
            return None
        if port in MAIL:
            return f"port {port} is for mail"
        for form in forms:
            why = self._near(form)
            if why is not None:
                return why if form == given else f"it leads to {form}: {why}"
        return None

    def _near(self, address: Address) -> str | None:
        if address in _METADATA:
            return f"it is {_METADATA[address]}"
        if address.is_loopback:
            return "it is the provider's machine"
        if address.is_unspecified:
            return "it is no address"
        if address.is_multicast:
            return "it is many"
        if address.is_link_local:
            return "it is the provider's own link"
        if not address.is_global:
            return "it is not public"
        if any(address in one for one in self._own if one.version == address.version):
            return "it is in the provider's network"
        if any(address in one for one in self._denied if one.version == address.version):
            return "the provider's owner does not allow it"
        return None


def _forms(address: Address) -> Iterable[Address]:
    """Those of IPv4 that it stands for, and the address, but one of IPv4 in the clothes of IPv6 is just that."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped
            return
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo
        if int(address) > 1 and (any(address in one for one in _NAT64) or int(address) >> 32 == 0):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    yield address
