"""The answers that the gateway makes itself: Matrix JSON with the CORS fields of the client-server specification.

And of every answer: whether the client's connection goes on after it.
"""

import json
import math
from collections.abc import Sequence
from http.client import responses
from typing import Final

from aiohttp import web

from gateway.core.headers import Field, head_octets
from gateway.errors import Refusal, Refused
from gateway.http1 import Written, client_of
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


def send_reply(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    """Answer with an answer of the homeserver as its own, with all its end-to-end fields."""
    keep_alive = keeps_alive(request)
    client_of(request).write(reply_octets(reply, connection_fields(request, keep_alive=keep_alive)))
    return Written(status=reply.status, sent=len(reply.body), keep_alive=keep_alive).as_response()


def reply_octets(reply: Reply, further: Sequence[Field]) -> bytes:
    """Return an answer of the homeserver as it goes to a client: its fields, and those that every answer needs."""
    fields = [(name, value) for name, value in reply.fields if name.lower() != b"content-length"]
    names = {name.lower() for name, _ in fields}
    ours = [(name.encode(), value.encode()) for name, value in CORS_HEADERS.items()]
    fields += [(name, value) for name, value in ours if name.lower() not in names]
    fields.append((b"Content-Length", b"%d" % len(reply.body)))
    start_line = f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()
    return head_octets(start_line, [*fields, *further]) + reply.body


def keeps_alive(request: web.BaseRequest) -> bool:
    """Say whether the connection may go on after the answer."""
    if request.version == (1, 0) and "Connection" not in request.headers:
        return False  # RFC 9112 9.3; Proxy-Connection counts for the parser
    # aiohttp loses what follows the body of a request with Upgrade.
    return (
        request.keep_alive
        and not client_of(request).ends
        and not (request.body_exists and "Upgrade" in request.headers)
    )


def connection_fields(request: web.BaseRequest, *, keep_alive: bool) -> list[Field]:
    """Return the fields that tell the client whether the connection goes on (RFC 9112 9.3 and 9.6)."""
    if not keep_alive:
        return [(b"Connection", b"close")]
    return [(b"Connection", b"keep-alive")] if request.version == (1, 0) else []
