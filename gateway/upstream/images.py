"""An image from an https address that a claim names, which its user may have written.

So it is fetched as from an enemy: the address of every connection is looked at after the name was resolved, every
redirect is judged like the claim, and time, size and kind are bounded. Nothing here logs or raises a path or a query.
"""

import asyncio
import functools
import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

import aiohttp
from pydantic import Field, field_validator
from yarl import URL

from gateway.core.avatars import image_type, is_public
from gateway.core.identity import check_server_name
from gateway.settings import Table
from gateway.upstream.fetching import MAX_REDIRECTS, REDIRECTS, NotFetched, TooLarge, read_body, session
from gateway.upstream.names import Resolver

# How many are fetched at once; each may hold `avatar_max_bytes` in memory, and a thread while its name is resolved.
AT_ONCE: Final = 4
_TIMEOUT: Final = 10  # seconds for all of it
# RFC 3986 2: what needs no quoting goes out octet for octet, or a signature over it would break.
_QUOTED: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_ACCEPT: Final = "image/png, image/jpeg, image/gif, image/webp"


class ImageSettings(Table):
    """What `[profile]` says of images: the hosts that they may come from, and how many bytes one may have."""

    avatar_hosts: list[str] = []
    avatar_max_bytes: int = Field(2 * 1024 * 1024, gt=0, le=32 * 1024 * 1024)

    @field_validator("avatar_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        for entry in value:
            _origin(entry)
        return value


@dataclass(frozen=True, slots=True)
class Image:
    """An image, and the media type that its octets tell."""

    octets: bytes
    media_type: str


class Images:
    """Fetches images over https: from the hosts of `avatar_hosts`, or without any from public addresses.

    `timeout` is in seconds. Certificates are believed as `SSL_CERT_FILE` and the system say.
    """

    def __init__(self, settings: ImageSettings, *, timeout: float = _TIMEOUT) -> None:
        self._origins = frozenset(map(_origin, settings.avatar_hosts))
        self._max_bytes = settings.avatar_max_bytes
        self._timeout = timeout
        self._resolver = Resolver(AT_ONCE)

    async def fetch(self, address: str) -> Image:
        """Return the image at an address; raises `NotFetched`."""
        try:
            async with asyncio.timeout(self._timeout), session(_ACCEPT, self._connector()) as asking:
                return await self._follow(asking, address)
        except TimeoutError:
            raise NotFetched(f"the image was not there after {self._timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise NotFetched(f"no connection to {error.host}: {error.os_error}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may hold the address, and ValueError is what a name that can't be one of a host ends with.
            raise NotFetched(f"the fetching failed: {type(error).__name__}") from error

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # 30 ms for the certificates of the system: for those who need it

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            ssl=self._tls,
            resolver=self._resolver,
            use_dns_cache=False,
            force_close=True,
            # The last word before a connection, on the very address: a name may resolve differently each time.
            socket_factory=None if self._origins else _public_socket,
        )

    async def _follow(self, asking: aiohttp.ClientSession, address: str) -> Image:
        for _ in range(MAX_REDIRECTS + 1):
            async with asking.get(self._checked(address), allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    return await self._read(response)
                address = urljoin(address, response.headers.get("Location", ""))
        raise NotFetched(f"more than {MAX_REDIRECTS} redirects")

    def _checked(self, address: str) -> URL:
        try:
            url = URL(address, encoded=_QUOTED.fullmatch(address) is not None)
            host, port = (url.raw_host or "").lower(), url.port
        except ValueError:
            raise NotFetched("not an address") from None
        if url.scheme != "https" or not host:
            raise NotFetched("only https is fetched")
        if "@" in url.raw_authority:
            raise NotFetched("the address holds a name or a password")
        if self._origins and (host, port) not in self._origins:
            raise NotFetched(f"{host}:{port} is not in avatar_hosts")
        if not self._origins and port != 443:
            raise NotFetched(f"{host} is asked for at port {port}; without avatar_hosts 443 alone is used")
        return url

    async def _read(self, response: aiohttp.ClientResponse) -> Image:
        host = response.url.raw_host or ""
        try:
            octets = await read_body(response, host, self._max_bytes)
        except TooLarge as error:
            raise NotFetched(f"{error} (avatar_max_bytes)") from None
        if response.content_length is None and "Transfer-Encoding" not in response.headers:
            raise NotFetched(f"{host} does not say where the image ends, so that it may be a part of it")
        return _image(octets)


def _image(octets: bytes) -> Image:
    media_type = image_type(octets)
    if media_type is None:
        raise NotFetched("what was sent is no PNG, JPEG, GIF or WebP")
    return Image(octets, media_type)


def _origin(entry: str) -> tuple[str, int]:
    """Read `HOST` or `HOST:PORT`; raises ValueError with the mend."""
    try:
        url = URL(f"https://{check_server_name(entry)}")
        host, port = url.raw_host, url.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ValueError(f"write HOST or HOST:PORT, as in portal.example.org:8443, not {entry[:80]!r}")
    return host, port


def _public_socket(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    """Make a socket for an address that may be connected to; the last step before the connection."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise OSError(f"{address[0]} is no public address")
    return socket.socket(family, kind, protocol)
