"""The answers that the gateway makes itself: Matrix JSON with the CORS fields of the client-server specification.

And of every answer: whether the client's connection goes on after it.
"""

import json
import math
from collections.abc import Sequence
from email.utils import formatdate
from http.client import responses
from typing import Final

from gateway.core.headers import Field, head_octets
from gateway.errors import FAULT, Refusal, Refused
from gateway.http1 import Request, Written
from gateway.upstream.pool import Reply

SERVER: Final = b"matrix-login-gateway"
CORS_HEADERS: Final = {
    # Client-server specification, 'Web browser clients'.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}


def json_reply(status: int, body: object, *fields: Field) -> Reply:
    """Return an answer of the gateway's own."""
    own = [(b"Content-Type", b"application/json"), (b"Server", SERVER), (b"Date", formatdate(usegmt=True).encode())]
    return Reply(status, [*own, *fields], json.dumps(body).encode())


def refusal(refused: Refused) -> Reply:
    """Return the table's answer for a refusal."""
    after = refused.retry_after
    fields = [] if after is None else [(b"Retry-After", b"%d" % math.ceil(after))]
    return json_reply(refused.status, refused.body(), *fields)


def unreadable(status: int) -> Reply:
    """Return the answer to a request that could not be read, or that a fault of ours was in the way of (500)."""
    if status == FAULT.status:
        return json_reply(FAULT.status, {"errcode": FAULT.errcode, "error": FAULT.text})
    refusals = {408: Refusal.REQUEST_TIMEOUT, 431: Refusal.HEAD_TOO_LARGE}
    return refusal(Refused(refusals.get(status, Refusal.BAD_REQUEST), "The request could not be read"))


def send_reply(request: Request, reply: Reply, *, close: bool = False) -> Written:
    """Send an answer of the homeserver as its own, with all its end-to-end fields, or one that we made.

    `close` ends the connection behind it.
    """
    keep_alive = not close and keeps_alive(request)
    octets = reply_octets(reply, connection_fields(request, keep_alive=keep_alive))
    sent = 0 if request.method == "HEAD" else len(reply.body)
    request.client.write(octets[: len(octets) - len(reply.body) + sent])
    return Written(reply.status, sent, keep_alive)


def reply_octets(reply: Reply, further: Sequence[Field]) -> bytes:
    """Return an answer of the homeserver as it goes to a client: its fields, and those that every answer needs."""
    fields = [(name, value) for name, value in reply.fields if name.lower() != b"content-length"]
    names = {name.lower() for name, _ in fields}
    ours = [(name.encode(), value.encode()) for name, value in CORS_HEADERS.items()]
    fields += [(name, value) for name, value in ours if name.lower() not in names]
    fields.append((b"Content-Length", b"%d" % len(reply.body)))
    start_line = f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()
    return head_octets(start_line, [*fields, *further]) + reply.body


def keeps_alive(request: Request) -> bool:
    """Say whether the connection may go on after the answer."""
    if request.version == (1, 0) and "Connection" not in request.headers:
        return False  # RFC 9112 9.3; Proxy-Connection counts for the parser
    # aiohttp loses what follows the body of a request with Upgrade.
    return request.keep_alive and not request.client.ends and not (request.has_body and "Upgrade" in request.headers)


def connection_fields(request: Request, *, keep_alive: bool) -> list[Field]:
    """Return the fields that tell the client whether the connection goes on (RFC 9112 9.3 and 9.6)."""
    if not keep_alive:
        return [(b"Connection", b"close")]
    return [(b"Connection", b"keep-alive")] if request.version == (1, 0) else []
