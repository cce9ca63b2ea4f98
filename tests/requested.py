"""A request as the parser hands it over, without a connection: for what looks at nothing else of it."""

from collections.abc import Iterable
from typing import cast

from aiohttp import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.http1 import ClientProtocol, Request


def requested(path: str = "/", fields: Iterable[tuple[str, str]] = ()) -> Request:
    """A GET of `path` with these fields."""
    headers = CIMultiDictProxy(CIMultiDict(fields))
    message = RawRequestMessage(
        method="GET",
        path=path,
        version=HttpVersion11,
        headers=headers,
        raw_headers=tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items()),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(path),
    )
    return Request(message, EMPTY_PAYLOAD, cast("ClientProtocol", None))
