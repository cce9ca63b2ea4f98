"""Which header fields cross the gateway, each way, and what is said of the client (`X-Forwarded-*`).

Fields are raw (name, value) octets in their order and case. RFC 9110 7.6.1 says which stay on their hop.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
Network: TypeAlias = IPv4Network | IPv6Network

_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authenticate",
        b"proxy-authorization",
    )
)
# A client that names one of these in Connection must not take it away from the homeserver.
_NEVER_NAMED: Final = frozenset((b"host", b"content-length"))
_FORWARDED: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_SPOOFABLE: Final = frozenset((*_FORWARDED, b"forwarded", b"x-real-ip"))
CORS_HEADERS: Final = {
    # Client-server specification, 'Web browser clients'.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}


@dataclass(frozen=True, slots=True)
class Hop:
    """What the gateway saw of a connection: the peer's address ("" on a unix socket) and the scheme."""

    peer: str
    scheme: str
    trusted: bool


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """Return the fields without those that belong to one hop and those that `Connection` names."""
    fields = list(fields)
    dropped = _HOP_BY_HOP
    for name, value in fields:
        if name.lower() == b"connection":
            named = {token.strip().lower() for token in value.split(b",")}
            dropped = dropped | (named - _NEVER_NAMED)
    return [field for field in fields if field[0].lower() not in dropped]


def to_homeserver(fields: Sequence[Field], hop: Hop, via: str = "") -> list[Field]:
    """Return the fields of a request as the homeserver gets them.

    From a trusted proxy `X-Forwarded-*` pass as they are and only what is missing is added; from anybody else they
    are replaced by what the gateway saw: Synapse believes the leftmost address of a list.
    """
    kept = end_to_end(fields)
    if not hop.trusted:
        kept = [field for field in kept if field[0].lower().replace(b"_", b"-") not in _SPOOFABLE]
    there = {name.lower() for name, _ in kept}
    host = next((value for name, value in kept if name.lower() == b"host"), b"")
    seen = (
        (b"X-Forwarded-For", hop.peer.encode()),
        (b"X-Forwarded-Proto", hop.scheme.encode()),
        (b"X-Forwarded-Host", host),
    )
    kept += [(name, value) for name, value in seen if value and name.lower() not in there]
    if via:
        kept.append((b"Via", b"1.1 " + via.encode()))
    return kept


def is_trusted(peer: str, trusted: Iterable[Network]) -> bool:
    """Say whether the peer is a trusted proxy; whoever can reach our unix socket is one."""
    if not peer:
        return True
    address = _address(peer)
    return address is not None and any(address in network for network in trusted)


def client_address(fields: Iterable[Field], hop: Hop, trusted: Sequence[Network]) -> str:
    """Return the address of the client itself: the first one from the right that is no trusted proxy."""
    if not hop.trusted:
        return hop.peer
    chain = [
        entry.strip().decode("latin-1")
        for name, value in fields
        if name.lower() == b"x-forwarded-for"
        for entry in value.split(b",")
    ]
    client = hop.peer
    for entry in reversed(chain):
        if _address(entry) is None:
            break
        client = entry
        if not is_trusted(entry, trusted):
            break
    return client


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d.
    return getattr(address, "ipv4_mapped", None) or address
