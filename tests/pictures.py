"""Images, and what calls itself one; and a server of them, with TLS."""

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.authority import LOOPBACK, Authority
from tests.raw_http import Handler, RawServer


def png(red: int = 0) -> bytes:
    """A PNG image of one pixel (PNG specification 5.3)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes([0, red, 0, 0]))) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """An answer whose fields are its length and these."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str) -> bytes:
    return answer(b"", f"Location: {location}", status="302 Found")


@asynccontextmanager
async def serving(authority: Authority, handler: Handler) -> AsyncIterator[RawServer]:
    """A server of images on a port of this machine."""
    async with RawServer(handler).running(tls=authority.server(LOOPBACK)) as server:
        yield server
