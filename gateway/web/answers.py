"""The answers that the gateway makes itself: Matrix JSON with the CORS fields of the client-server specification."""

import json
import math
from typing import Any, Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Reply

SERVER: Final = "matrix-login-gateway"
CORS_HEADERS: Final = {
    # Client-server specification, 'Web browser clients'.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}


def refusal(refused: Refused) -> web.Response:
    """Return the table's answer for a refusal."""
    response = web.Response(
        status=refused.status,
        body=json.dumps(refused.body()).encode(),
        content_type="application/json",
        headers={**CORS_HEADERS, "Server": SERVER},
    )
    if refused.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(refused.retry_after))
    return response


def unreadable(status: int) -> web.Response:
    """Return the answer to a request that could not be read."""
    refusals = {408: Refusal.REQUEST_TIMEOUT, 431: Refusal.HEAD_TOO_LARGE}
    return refusal(Refused(refusals.get(status, Refusal.BAD_REQUEST), "The request could not be read"))


def homeserver_reply(reply: Reply) -> web.Response:
    """Return an answer of the homeserver as its own, with all its end-to-end fields."""
    fields = CIMultiDict(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in reply.fields
        if name.lower() != b"content-length"
    )
    for name, value in CORS_HEADERS.items():
        fields.setdefault(name, value)
    fields.setdefault("Server", SERVER)  # or aiohttp names itself and its version
    return _Untouched(status=reply.status, body=reply.body, headers=fields)


class _Untouched(web.Response):
    """An answer whose fields, held as Latin-1, go out as the octets that they were, and with no type of aiohttp's.

    Rests on `_prepare_headers` and `_write_headers` of aiohttp 3.14, and on where its writer keeps a head.
    """

    async def _prepare_headers(self) -> None:
        typed = hdrs.CONTENT_TYPE in self.headers
        await super()._prepare_headers()
        if not typed:
            self.headers.pop(hdrs.CONTENT_TYPE, None)

    async def _write_headers(self) -> None:
        # aiohttp would write UTF-8, and fail for control characters, which its parser takes.
        lines = [
            f"HTTP/1.1 {self.status} {self.reason}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        writer: Any = self._payload_writer
        writer._headers_buf = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")  # noqa: SLF001
