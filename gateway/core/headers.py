"""Which header fields cross the gateway, each way, and what is said of the client (`X-Forwarded-*`).

Fields are raw (name, value) octets in their order and case. RFC 9110 7.6.1 says which stay on their hop.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeAlias

from gateway.core.addresses import Network, parse_address

Field: TypeAlias = tuple[bytes, bytes]

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
_FORWARDED: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"))
# What else a homeserver could take for the word of its proxy.
_BELIEVED: Final = frozenset((b"x-forwarded-port", b"forwarded", b"x-real-ip"))
# What needs no second look at the fields when `Connection` names it: a client must not take these away from the
# homeserver, or they have gone anyhow.
_NEVER_NAMED: Final = _HOP_BY_HOP | _FORWARDED | _BELIEVED | {b"host", b"content-length"}


def _spellings(name: bytes) -> Iterator[bytes]:
    """Yield a name in every way that a CGI-like server behind us reads alike: `-` and `_`."""
    words = name.split(b"-")
    for signs in product(b"-_", repeat=len(words) - 1):
        yield words[0] + b"".join(bytes([sign]) + word for sign, word in zip(signs, words[1:], strict=True))


_OF_PROXIES: Final = frozenset(spelling for name in _FORWARDED | _BELIEVED for spelling in _spellings(name))
_REQUEST_ID: Final = frozenset(_spellings(b"x-request-id"))
_LOOKED_AT: Final = _HOP_BY_HOP | _OF_PROXIES | {b"host"}
# An IPv4 address with its port, or an IPv6 address in brackets with or without one (RFC 7239 6).
_WITH_PORT: Final = re.compile(r"^(?:([0-9.]+):[0-9]+|\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?)$")
# RFC 9112 3.2, RFC 3986 3.2.2 and 3.2.3: a name or an address, and a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Entries of X-Forwarded-For that are read: more than there are proxies in any row, and each takes some microseconds.
_MAX_PROXIES: Final = 32
# The longest Host that is kept in memory: a client can send any, and names have 253 octets at most (RFC 1035 2.3.4).
_MAX_KNOWN: Final = 256


@dataclass(frozen=True, slots=True)
class Hop:
    """What the gateway knows of a connection: the peer's address, "" on a unix socket.

    `secure`: whether the client spoke TLS, None where nobody told.
    """

    peer: str
    trusted: bool
    secure: bool | None = False


def end_to_end(fields: Sequence[Field]) -> list[Field]:
    """Return the fields without those that belong to one hop and those that `Connection` names."""
    kept: list[Field] = []
    options: list[bytes] = []
    for field in fields:  # a loop over each name once is faster than anything that collects the names first
        name = field[0].lower()
        if name not in _HOP_BY_HOP:
            kept.append(field)
        elif name == b"connection":
            options.append(field[1])
    return _without_named(kept, options) if options else kept


def to_homeserver(fields: Sequence[Field], hop: Hop, via: str = "") -> list[Field]:
    """Return the fields of a request as the homeserver gets them.

    What a trusted proxy says of the client passes as it is. From anybody else, or where it says nothing, it is what
    the gateway saw: Synapse believes the leftmost address of a list.
    """
    kept: list[Field] = []
    options: list[bytes] = []
    host, told = None, False
    for field in fields:
        name = field[0].lower()
        if name not in _LOOKED_AT:
            kept.append(field)
        elif name == b"connection":
            options.append(field[1])
        elif name == b"host":
            kept.append(field)
            host = host or field
        elif hop.trusted and name not in _HOP_BY_HOP:
            kept.append(field)
            told = told or name in _FORWARDED
    if options:
        kept = _without_named(kept, options)
    if not told:
        if hop.peer:
            kept.append((b"X-Forwarded-For", hop.peer.encode()))
        if hop.secure is not None:  # a wrong http would have a homeserver redirect to itself
            kept.append((b"X-Forwarded-Proto", b"https" if hop.secure else b"http"))
        if host is not None:
            kept.append((b"X-Forwarded-Host", host[1]))
    if via:
        kept.append((b"Via", b"1.1 " + via.encode()))
    return kept


def with_request_id(fields: Sequence[Field], request_id: str) -> list[Field]:
    """Return the fields with this id as the only one of the request."""
    kept = [field for field in fields if field[0].lower() not in _REQUEST_ID]
    kept.append((b"X-Request-Id", request_id.encode()))
    return kept


def _without_named(fields: list[Field], options: Sequence[bytes]) -> list[Field]:
    """Return the fields without those that the values of `Connection` name, in time linear in both."""
    named = {option.strip() for value in options for option in value.lower().split(b",")}
    named -= _NEVER_NAMED
    return [field for field in fields if field[0].lower() not in named] if named else fields


def is_host(value: str) -> bool:
    """Say whether this can be the value of `Host`: another value could mean two things to two servers."""
    return _known_host(value) if len(value) <= _MAX_KNOWN else _HOST.fullmatch(value) is not None


@functools.lru_cache(maxsize=256)
def _known_host(value: str) -> bool:
    return _HOST.fullmatch(value) is not None


def head_octets(start_line: bytes, fields: Sequence[Field]) -> bytes:
    """Return a message's head with the empty line (RFC 9112 2.1); the parts must not hold line breaks."""
    lines = [start_line]
    lines += [b": ".join(field) for field in fields]
    lines += (b"", b"")
    return b"\r\n".join(lines)


def client_address(fields: Sequence[Field], hop: Hop, trusted: Sequence[Network]) -> str:
    """Return the address of the client itself, "" where nobody who is believed tells it.

    It is the first one of `X-Forwarded-For` from the right that is no trusted proxy: each proxy adds the one it saw,
    and what stands left of a stranger is the stranger's word. Where all are trusted, it is the leftmost that is read.
    """
    if not hop.trusted:
        return hop.peer
    client, proxies = "", 0
    for name, value in reversed(fields):
        if name.lower() != b"x-forwarded-for":
            continue
        for entry in reversed(value.split(b",")):
            text = entry.strip().decode("latin-1")
            if not text:
                continue  # RFC 9110 5.6.1
            address = parse_address(_WITH_PORT.sub(r"\1\2", text))  # some proxies write the port too
            if address is None:
                return ""  # "unknown", "unix:": a proxy does not say for whom it asks
            client = str(address)
            proxies += 1
            if proxies == _MAX_PROXIES or not any(address in network for network in trusted):
                return client
    return client
