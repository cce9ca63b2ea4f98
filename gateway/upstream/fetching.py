"""One answer from a server that is not ours, such as an issuer of keys or a host of images.

The rule of this file: neither cookies nor a proxy of the environment, nothing that grows when it is unpacked, and no
more octets than were asked for. Where a redirect may lead is the caller's to say.
"""

from typing import Final

import aiohttp

REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS: Final = 3


class NotFetched(Exception):
    """What was asked for did not come, or may not be taken; the text says why, for the log."""


class TooLarge(NotFetched):
    """It is larger than what was asked for."""


def session(accept: str, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """Return a session for one fetch, which closes the connector; its time is the caller's to bound."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Accept": accept,
            "Accept-Encoding": "identity",
            "User-Agent": "matrix-login-gateway",
        },
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
        trust_env=False,
    )


async def read_body(response: aiohttp.ClientResponse, where: str, max_bytes: int) -> bytes:
    """Return the body of a 200; raises `NotFetched`, which names the server as `where`."""
    if response.status != 200:
        raise NotFetched(f"{where} answered {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NotFetched(f"{where} sent it compressed, unasked")
    body = bytearray()
    if (response.content_length or 0) <= max_bytes:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise TooLarge(f"{where} sent more than {max_bytes} bytes")
