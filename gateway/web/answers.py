"""The answers that the gateway makes itself: Matrix JSON with the CORS fields of the client-server specification."""

import json
import math
from http.client import responses
from typing import Final

from aiohttp import web

from gateway.errors import Refusal, Refused
from gateway.http1 import WRITTEN_CLOSE, WRITTEN_KEEP, client_of
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
    # As in the relay: RFC 9112 9.3, and aiohttp loses what follows the body of a request with Upgrade.
    old = request.version == (1, 0) and "Connection" not in request.headers
    keep_alive = request.keep_alive and not old and "Upgrade" not in request.headers
    client_of(request).write(reply_octets(reply, keep_alive=keep_alive))
    return WRITTEN_KEEP if keep_alive else WRITTEN_CLOSE


def reply_octets(reply: Reply, *, keep_alive: bool) -> bytes:
    """Return an answer of the homeserver as it goes to a client: its fields, and those that every answer needs."""
    fields = [(name, value) for name, value in reply.fields if name.lower() != b"content-length"]
    names = {name.lower() for name, _ in fields}
    ours = [(name.encode(), value.encode()) for name, value in CORS_HEADERS.items()]
    fields += [(name, value) for name, value in ours if name.lower() not in names]
    fields.append((b"Content-Length", b"%d" % len(reply.body)))
    if not keep_alive:
        fields.append((b"Connection", b"close"))
    lines = [f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join((*lines, b"", reply.body))
