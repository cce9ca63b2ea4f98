"""The answers that the gateway makes itself: Matrix JSON with the CORS fields of the client-server specification."""

import json
import math

from aiohttp import web
from multidict import CIMultiDict

from gateway.core.headers import CORS_HEADERS
from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Reply

SERVER = "matrix-login-gateway"


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
    return web.Response(status=reply.status, body=reply.body, headers=fields)
