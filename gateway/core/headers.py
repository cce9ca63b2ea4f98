"""Which header fields cross the gateway, each way, and what is said of the client (`X-Forwarded-*`).

Fields are raw (name, value) octets in their order and case. RFC 9110 7.6.1 says which stay on their hop.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
# A client that names one of these in Connection must not take it away from the homeserver.
_NEVER_NAMED: Final = _FORWARDED | _BELIEVED | {b"host", b"content-length"}


def _spellings(name: bytes) -> Iterator[bytes]:
    """Yield a name in every way that a CGI-like server behind us reads alike: `-` and `_`."""
    words = name.split(b"-")
    for signs in product(b"-_", repeat=len(words) - 1):
        yield words[0] + b"".join(bytes([sign]) + word for sign, word in zip(signs, words[1:], strict=True))


_OF_PROXIES: Final = frozenset(spelling for name in (*_FORWARDED, *_BELIEVED) for spelling in _spellings(name))
REQUEST_ID: Final = frozenset(_spellings(b"x-request-id"))
_LOOKED_AT: Final = _HOP_BY_HOP | _OF_PROXIES | {b"host", b"content-length"}
# RFC 9110 7.6.1: what `Connection` says by far most often, and names no other field.
_NAMES_NOTHING: Final = frozenset((b"keep-alive", b"close"))
# An IPv4 address with its port, or an IPv6 address in brackets with or without one (RFC 7239 6).
_WITH_PORT: Final = re.compile(r"^(?:([0-9.]+):[0-9]+|\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?)$")
# RFC 9112 3.2, RFC 3986 3.2.2 and 3.2.3: a name or an address, and a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Entries of X-Forwarded-For that are read: more than there are proxies in any row, and each takes some microseconds.
_MAX_PROXIES: Final = 32


@dataclass(frozen=True, slots=True)
class Hop:
    """What the gateway knows of a connection: the peer's address, "" on a unix socket.

    `secure`: whether the client spoke TLS, None where nobody told. `told` are the fields that tell the homeserver.
    """

    peer: str
    trusted: bool
    secure: bool | None = False
    told: tuple[Field, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        told = [(b"X-Forwarded-For", self.peer.encode())] if self.peer else []
        if self.secure is not None:  # a wrong http would have a homeserver redirect to itself
            told.append((b"X-Forwarded-Proto", b"https" if self.secure else b"http"))
        object.__setattr__(self, "told", tuple(told))


class Fields:
    """The fields of a message: `raw` in order and case, `kept` without those that belong to one hop.

    `special` holds the values of those that a proxy has to look at, by their lower-case names.
    """

    __slots__ = ("kept", "raw", "special")

    def __init__(self, raw: Sequence[Field]) -> None:
        self.raw = raw
        kept: list[Field] = []
        special: dict[bytes, list[bytes]] = {}
        self.kept, self.special = kept, special
        for each in raw:  # once for all that is asked of names: this loop is a fifth of what a request costs
            name = each[0].lower()
            if name not in _LOOKED_AT:
                kept.append(each)
                continue
            special.setdefault(name, []).append(each[1])
            if name not in _HOP_BY_HOP:
                kept.append(each)

    @property
    def keeps_http_1_0(self) -> bool:
        """Whether `Connection` keeps a connection of HTTP/1.0: by `keep-alive`, and no `close` (RFC 9112 9.3)."""
        options = _options(self.special.get(b"connection", ()))
        return b"keep-alive" in options and b"close" not in options

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a field, by its lower-case name, in their order."""
        return [value for each, value in self.raw if each.lower() == name]


def end_to_end(fields: Fields, without: Collection[bytes] = ()) -> Sequence[Field]:
    """Return the fields without those that belong to one hop, that `Connection` names, or `without` others."""
    options = fields.special.get(b"connection")
    if options is not None and (len(options) > 1 or options[0].lower() not in _NAMES_NOTHING):
        without = (_options(options) - _NEVER_NAMED).union(without)
    return _without(fields.kept, without) if without else fields.kept


def _options(values: Iterable[bytes]) -> set[bytes]:
    """Return the options of all `Connection` fields (RFC 9110 7.6.1)."""
    return {option.strip() for value in values for option in value.lower().split(b",")}


def to_homeserver(fields: Fields, hop: Hop, without: Collection[bytes] = ()) -> Sequence[Field]:
    """Return the fields of a request as the homeserver gets them, `without` others by their lower-case names.

    What a trusted proxy says of the client passes as it is. From anybody else, or where it says nothing, it is what
    the gateway saw: Synapse believes the leftmost address of a list.
    """
    special = fields.special
    kept = end_to_end(fields, without)
    if hop.trusted:
        if not _FORWARDED.isdisjoint(special):
            return kept
    elif not _OF_PROXIES.isdisjoint(special):
        kept = _without(kept, _OF_PROXIES)
    if b"host" in special:
        return (*kept, *hop.told, (b"X-Forwarded-Host", special[b"host"][0]))
    return (*kept, *hop.told)


def _without(fields: Sequence[Field], names: Collection[bytes]) -> Sequence[Field]:
    return [field for field in fields if field[0].lower() not in names]


def is_host(value: str) -> bool:
    """Say whether this can be the value of `Host`: another value could mean two things to two servers."""
    return _HOST.fullmatch(value) is not None


def head_octets(start_line: bytes, fields: Iterable[Field]) -> bytes:
    """Return a message's head with the empty line (RFC 9112 2.1); the parts must not hold line breaks."""
    return b"\r\n".join([start_line, *map(b": ".join, fields), b"", b""])


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
