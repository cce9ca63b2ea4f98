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
from gateway.errors import Refusal, Refused
from gateway.http1 import Request, Written
from gateway.upstream.pool import Reply

SERVER: Final = b"matrix-login-gateway"
CORS_HEADERS: Final = {
    # Client-server specification, 'Web browser clients'.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}
_CORS_FIELDS: Final = [(name.encode(), value.encode()) for name, value in CORS_HEADERS.items()]


def json_reply(status: int, body: object, *fields: Field) -> Reply:
    """Return an answer of the gateway's own; its `Date` is asked for by RFC 9110 6.6.1."""
    own = [(b"Content-Type", b"application/json"), (b"Server", SERVER), (b"Date", formatdate(usegmt=True).encode())]
    return Reply(status, [*own, *fields], json.dumps(body).encode())


def refusal(refused: Refused) -> Reply:
    """Return the table's answer for a refusal."""
    after = refused.retry_after
    fields = [] if after is None else [(b"Retry-After", b"%d" % math.ceil(after))]
    return json_reply(refused.status, refused.body(), *fields)


def unreadable(status: int) -> Reply:
    """Return the answer to a request that could not be read."""
    refusals = {408: Refusal.REQUEST_TIMEOUT, 431: Refusal.HEAD_TOO_LARGE}
    return refusal(Refused(refusals.get(status, Refusal.BAD_REQUEST), "The request could not be read"))


def send_reply(request: Request, reply: Reply, *, close: bool = False) -> Written:
    """Send an answer of ours, or one of the homeserver as its own; `close` ends the connection behind it."""
    keep_alive = not close and keeps_alive(request)
    body = b"" if request.method == "HEAD" else reply.body
    octets = reply_head(reply, connection_fields(request, keep_alive=keep_alive)) + body
    request.answered = True
    request.client.write(octets)
    return Written(reply.status, len(body), keep_alive)


def reply_head(reply: Reply, further: Sequence[Field]) -> bytes:
    """Return the head of an answer to a client: its own fields, those that every answer needs, and `further` ones."""
    fields = [(name, value) for name, value in reply.fields if name.lower() != b"content-length"]
    names = {name.lower() for name, _ in fields}
    fields += [(name, value) for name, value in _CORS_FIELDS if name.lower() not in names]
    fields.append((b"Content-Length", b"%d" % len(reply.body)))
    start_line = f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()
    return head_octets(start_line, [*fields, *further])


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
