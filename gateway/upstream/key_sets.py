"""JWK sets over HTTP, straight from a URL or by way of a discovery document (OpenID Connect Discovery 1.0, 4).

Whoever can change what comes can log in as anybody: https with a certificate of a trusted authority, or loopback; no
other host by redirect; bounded in size and time.
"""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from authlib.oidc.discovery import OpenIDProviderMetadata
from yarl import URL

from gateway.core.strict_json import parse_object
from gateway.upstream.fetching import MAX_REDIRECTS, REDIRECTS, NotFetched, read_body, session
from gateway.upstream.names import Resolver

# Bounds of how long a set is kept, in seconds, whatever its issuer says.
MIN_AGE: Final = 300
MAX_AGE: Final = 86400
_TIMEOUT: Final = 5
_MAX_BYTES: Final = 1024 * 1024
_ACCEPT: Final = "application/jwk-set+json, application/json"


@dataclass(frozen=True, slots=True)
class FetchedSet:
    """The octets of a set, and for how many seconds they may be kept."""

    octets: bytes
    max_age: int


def check_url(text: str) -> URL:
    """Return the URL of a set or a document; ValueError with the mend unless it is https, or http on this machine."""
    try:
        url = URL(text)
    except ValueError:
        raise ValueError("not a URL; write https://HOST/PATH") from None
    if url.scheme not in {"https", "http"} or not url.host:
        raise ValueError("not a URL; write https://HOST/PATH")
    if url.user is not None or url.password is not None or url.fragment:
        raise ValueError("a user, a password or a # don't belong there; write https://HOST/PATH")
    if url.scheme == "http" and not is_loopback(url.host):
        raise ValueError("http lets others change the keys on their way; write https://HOST/PATH")
    return url


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class KeySetClient:
    """Fetches the set at `url`; with `issuers`, the set that the discovery document at `url` names.

    That document must be of one of the `issuers`. `timeout` is what a whole fetch may take, in seconds.
    """

    def __init__(self, url: str, issuers: Sequence[str] | None = None, *, timeout: float = _TIMEOUT) -> None:
        self.url = check_url(url)
        self._issuers = issuers
        self._timeout = timeout
        self._tls = ssl.create_default_context()
        self._resolver = Resolver(1)

    async def fetch(self) -> FetchedSet:
        """Return the set as it is now; raises `NotFetched`."""
        try:
            async with asyncio.timeout(self._timeout), session(_ACCEPT, self._connector()) as asking:
                url = self.url
                if self._issuers is not None:
                    document, _ = await _get(asking, url)
                    url = _jwks_uri(document, url, self._issuers)
                octets, cache_control = await _get(asking, url)
        except TimeoutError:
            raise NotFetched(f"{_shown(self.url)} takes longer than {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a name that can't be one of a host
            raise NotFetched(f"{_shown(self.url)} can't be reached: {_describe(error)}") from None
        return FetchedSet(octets, lifetime(cache_control))

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self._tls, resolver=self._resolver, force_close=True)


async def _get(asking: aiohttp.ClientSession, url: URL) -> tuple[bytes, str]:
    """Return the body at `url`, and its Cache-Control; follows a few redirects to the same origin."""
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        async with asking.get(url, allow_redirects=False) as response:
            if response.status not in REDIRECTS:
                body = await read_body(response, _shown(response.url), _MAX_BYTES)
                return body, ", ".join(response.headers.getall("Cache-Control", []))
            target = url.join(URL(response.headers.get("Location", "")))
        if target.origin() != first.origin():
            raise NotFetched(f"{_shown(first)} redirects to another host, {target.origin()}; name that URL itself")
        url = target
    raise NotFetched(f"{_shown(first)} redirects more than {MAX_REDIRECTS} times")


def _jwks_uri(document: bytes, at: URL, issuers: Sequence[str]) -> URL:
    """Return where the set is; of the document only issuer and jwks_uri matter.

    Issuers of tokens for machines (Kubernetes, GitHub) lack other members that OpenID Connect requires.
    """
    try:
        metadata = OpenIDProviderMetadata(parse_object(document))
        if not isinstance(metadata.get("issuer"), str) or not isinstance(metadata.get("jwks_uri"), str):
            raise NotFetched(f"{_shown(at)} is no discovery document, which has an issuer and a jwks_uri")
        metadata.validate_issuer()
        metadata.validate_jwks_uri()
        url = check_url(metadata["jwks_uri"])
    except ValueError as error:
        raise NotFetched(f"{_shown(at)} is no discovery document that can be used: {error}") from None
    if metadata["issuer"] not in issuers:
        raise NotFetched(f"{_shown(at)} is of the issuer {metadata['issuer'][:200]!a}, which issuer does not name")
    if at.scheme == "https" and url.scheme != "https":
        raise NotFetched(f"{_shown(at)} names a set that is not behind https")
    return url


def lifetime(cache_control: str) -> int:
    """Return for how many seconds an answer may be kept by its Cache-Control (RFC 9111 5.2.2), within our bounds."""
    ages = re.findall(r'(?:^|[\s,])max-age\s*=\s*"?([0-9]{1,15})', cache_control, re.IGNORECASE)
    if not ages or re.search(r"no-(?:store|cache)", cache_control, re.IGNORECASE):
        return MIN_AGE
    return max(MIN_AGE, min(MAX_AGE, *map(int, ages)))


def _shown(url: URL) -> str:
    """Return a URL for the log; a query may hold a key of the operator's."""
    return str(url.with_query(None))


def _describe(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return str(cause) or type(cause).__name__
