"""Addresses of clients and proxies. The rule of this file: one address has one text, whoever wrote it down."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address, None for what is none.

    A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d. The zone of a link-local address is left out: it means
    nothing elsewhere.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or (IPv6Address(int(address)) if address.scope_id else address)


def plain(text: str) -> str:
    """Return the one text of an address; what is none stays as it is."""
    address = parse_address(text)
    return text if address is None else str(address)


def is_trusted(peer: str, trusted: Iterable[Network]) -> bool:
    """Say whether the peer is a trusted proxy; whoever can reach our unix socket, where it is "", is one."""
    if not peer:
        return True
    address = parse_address(peer)
    return address is not None and any(address in network for network in trusted)
