"""The answers that the gateway makes itself: Matrix JSON, with the CORS fields that Synapse sends."""

import json
import math
from email.utils import formatdate
from http.client import responses
from typing import Final

from gateway.core.headers import Field, head_octets
from gateway.errors import Refusal, Refused
from gateway.http.messages import Request
from gateway.upstream.pool import Reply

SERVER: Final = b"matrix-login-gateway"
CORS_HEADERS: Final = {
    # Client-server specification, 'Web browser clients'; the values are those of Synapse 1.150.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization, Date",
    # Pages see no other field, and Retry-After is one that they should obey.
    "Access-Control-Expose-Headers": "Synapse-Trace-Id, Server, Retry-After",
}
# RFC 9110 8.6.
_WITHOUT_LENGTH: Final = frozenset((204, 304))
_CORS_FIELDS: Final = [(name.encode(), value.encode()) for name, value in CORS_HEADERS.items()]


def _own_fields() -> list[Field]:
    date = formatdate(usegmt=True).encode()  # RFC 9110 6.6.1
    return [(b"Server", SERVER), (b"Date", date), (b"Cache-Control", b"no-store")]


def json_reply(status: int, body: object, *fields: Field) -> Reply:
    """Return an answer of the gateway's own."""
    own = [(b"Content-Type", b"application/json"), *_own_fields()]
    return Reply(status, [*own, *fields], json.dumps(body).encode())


def refusal(refused: Refused) -> Reply:
    """Return the table's answer for a refusal."""
    after = refused.retry_after
    fields = [] if after is None else [(b"Retry-After", b"%d" % math.ceil(after))]
    if refused.refusal is Refusal.UNSUPPORTED_CODING:
        fields.append((b"Accept-Encoding", b"identity"))  # RFC 9110 15.5.16
    return json_reply(refused.status, refused.body(), *fields)


def is_preflight(request: Request) -> bool:
    """Say whether a browser asks if a page may make a request (Fetch standard, CORS-preflight request)."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight_reply() -> Reply:
    """Return the answer to a preflight that the homeserver can't give, so that pages see why it can't answer."""
    return Reply(204, _own_fields(), b"")


def reply_octets(request: Request, reply: Reply, *, keep_alive: bool) -> bytes:
    """Return an answer of ours, or one of the homeserver as our own, in the form that the request asks for."""
    fields = [(name, value) for name, value in reply.fields if name.lower() != b"content-length"]
    names = {name.lower() for name, _ in fields}
    fields += [(name, value) for name, value in _CORS_FIELDS if name.lower() not in names]
    if reply.status not in _WITHOUT_LENGTH:
        fields.append((b"Content-Length", b"%d" % len(reply.body)))
    if request.is_http_1_0 or not keep_alive:
        fields.append(connection_field(keep_alive=keep_alive))
    head = head_octets(f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode(), fields)
    return head if request.method == "HEAD" else head + reply.body


def connection_field(*, keep_alive: bool) -> Field:
    """Return the field that tells whether the connection goes on; HTTP/1.1 goes on without (RFC 9112 9.3, 9.6)."""
    return (b"Connection", b"keep-alive" if keep_alive else b"close")
