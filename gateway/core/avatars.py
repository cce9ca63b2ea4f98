"""What an avatar may be: the content that a homeserver has, or an image from an address that is public.

Names of content: client-server specification, 'Matrix Content (mxc://) URIs'.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Final

from gateway.core.identity import check_server_name

_MEDIA_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
# PNG, GIF, JPEG; formats that hold scripts or text (SVG, HTML) are none of them.
_OPENINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xff\xd8\xff", "image/jpeg"),
)
# All that is given out (RFC 4291 2.4, IANA). IPv4 in disguise (mapped, compatible, NAT64) is outside of it.
_IPV6_UNICAST: Final = IPv6Network("2000::/3")
# Parts of it that lead elsewhere, which not every Python knows: 6to4, and documentation (RFC 9637).
_IPV6_OTHER: Final = (IPv6Network("2002::/16"), IPv6Network("3fff::/20"))


@dataclass(frozen=True, slots=True)
class Avatar:
    """A user's avatar as it was set last: digests of the claim and of the image, and the content's name.

    `source` is "" while it is uploaded but not set, `content` is "" where the claim named the content itself.
    """

    source: str = ""
    content: str = ""
    mxc: str = ""


def is_mxc(text: str) -> bool:
    """Say whether this names content: `mxc://`, a server name, and a media id."""
    scheme, _, rest = text.partition("://")
    server_name, _, media_id = rest.partition("/")
    try:
        check_server_name(server_name)
    except ValueError:
        return False
    return scheme == "mxc" and _MEDIA_ID.fullmatch(media_id) is not None


def image_type(octets: bytes) -> str | None:
    """Return the media type that the first octets tell, None unless it is one that every client shows as an image."""
    if octets[:4] == b"RIFF" and octets[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for opening, kind in _OPENINGS if octets.startswith(opening)), None)


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet, not of this machine or of a network of one's own."""
    found = ip_address(address)
    if isinstance(found, IPv4Address):
        return found.is_global and not found.is_multicast
    return found.is_global and found in _IPV6_UNICAST and not any(found in network for network in _IPV6_OTHER)
