"""What each edge still changes with its snippet in place: the known exceptions from what the edge tests claim.

Rule: they are asserted as such, and the manual's table tells them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_letters, digits
from typing import Final

from tests.config.running_edge import NAME


@dataclass(frozen=True)
class Deviations:
    """What a program still changes with its snippet in place; the manual's table says the same."""

    targets: Callable[[str], str] = str  # what becomes of a request target
    adds: Mapping[str, str] = field(default_factory=dict)  # fields of a request
    no_request_id: bool = False  # it makes none, so the gateway does
    refuses_named_fields: bool = False  # 400 to a client that names a forwarded field in Connection
    loses_named: Sequence[str] = ()  # forwarded fields that are not there if the client names them in Connection
    several_authorizations: str = "kept"  # or "refused", or what joins them
    servers: Sequence[str] = ()  # fields named Server of its own in an answer
    unpacks_gzip: bool = False  # it asks for gzip where the client did not
    abandons: bool = True  # it ends the request of a client that has gone


UNRESERVED: Final = ascii_letters + digits + "._~-"  # RFC 3986 2.3


def _reencoded(path: str, bare: str) -> str:
    """The path with hex in upper case, and characters in `bare` without it."""

    def written(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if character in bare else found[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", written, path)


def _by_apache(target: str) -> str:
    """It takes a path that begins with `//` for unsafe ("ignoring unsafe nocanon"), and keeps only `%2f` of it."""
    path, mark, query = target.partition("?")
    if not path.startswith("//"):
        return target
    parts = re.split("(%2[Ff])", path.lstrip("/"))
    kept = [
        _reencoded(part, UNRESERVED + "!$&'()*+,;=:@") if index % 2 == 0 else part for index, part in enumerate(parts)
    ]
    return "/" + "".join(kept) + mark + query


def _by_traefik(target: str) -> str:
    path, mark, query = target.partition("?")
    return _reencoded(path, UNRESERVED) + mark + query.replace(";", "&")


DEVIATIONS: Final[Mapping[str, Deviations]] = {
    "apache2": Deviations(
        targets=_by_apache,
        adds={"x-forwarded-server": NAME},
        loses_named=("x-forwarded-proto",),
        several_authorizations=", ",
        abandons=False,
    ),
    "caddy": Deviations(),
    "caddy of Debian": Deviations(servers=("Caddy",)),
    "envoy": Deviations(refuses_named_fields=True, several_authorizations=","),
    "haproxy": Deviations(),
    "nginx": Deviations(several_authorizations="refused"),
    "traefik": Deviations(targets=_by_traefik, no_request_id=True, unpacks_gzip=True),
}
