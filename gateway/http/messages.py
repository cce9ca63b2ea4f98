"""Requests and responses whose heads were read, and how far the answer to a request is."""

from collections.abc import Callable
from typing import Protocol

from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage, RawResponseMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.core.headers import Fields
from gateway.http.body import NO_BODY, Body
from gateway.http.states import NONE


class Work(Protocol):
    """What answers a request, such as a task."""

    def cancel(self) -> None:
        """End it, for the client has left."""

    def stop(self) -> None:
        """Refuse it, or break its answer off, for we stop."""

    def stall(self) -> None:
        """Refuse it, or break its answer off, for no octet of its bodies has moved for too long."""

    def fail(self, fault: Exception) -> None:
        """Say that it has failed by a fault of ours, or break its answer off."""


class Request(Fields):
    """What was read of a head, the body as it comes, and the answer's state.

    `target` is the request target as it came (RFC 9112 3.2). `framed`: the answer's end is told by more than the end
    of the connection. `answering`: an answer has begun to come, and nothing of it goes out yet. `writable` is called
    when the client takes more of the answer again.
    """

    __slots__ = (
        "answer",
        "answering",
        "body",
        "framed",
        "headers",
        "is_http_1_0",
        "keep_alive",
        "method",
        "target",
        "work",
        "writable",
    )

    def __init__(self, message: RawRequestMessage, method: str, target: str) -> None:
        Fields.__init__(self, message.raw_headers)  # super() takes three times as long
        self.method = method
        self.target = target
        self.headers: CIMultiDictProxy[str] = message.headers
        self.is_http_1_0 = message.version is HttpVersion10
        # The parser takes Proxy-Connection too, and `keep-alive` before `close`.
        self.keep_alive = not message.should_close and (not self.is_http_1_0 or self.keeps_http_1_0)
        self.body = NO_BODY
        self.answer = NONE
        self.answering = False
        self.framed = True
        self.work: Work | None = None
        self.writable: Callable[[], None] | None = None

    @property
    def is_moving(self) -> bool:
        """Whether octets of a body are to come or to go, so that it is not just the answer that is waited for."""
        return self.answer is not NONE or self.answering or not self.body.ended or self.body.waiting > 0

    @property
    def chunked(self) -> bool:
        """Whether the body came in chunks."""
        return b"transfer-encoding" in self.special  # no other coding is taken


def unreadable_request(body: Body) -> Request:
    """Return what stands for a request whose head can't be read."""
    message = RawRequestMessage(
        method="",
        path="",
        version=HttpVersion11,
        headers=CIMultiDictProxy(CIMultiDict()),
        raw_headers=(),
        should_close=True,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(),
    )
    request = Request(message, "", "")
    request.body = body
    return request


class Response(Fields):
    """An answer of a server upstream: what was read of its head, and the body as it comes."""

    __slots__ = ("body", "keep_alive", "reason", "status")

    def __init__(self, message: RawResponseMessage) -> None:
        Fields.__init__(self, message.raw_headers)
        self.status: int = message.code
        self.reason: str = message.reason
        self.keep_alive = not message.should_close and (message.version is not HttpVersion10 or self.keeps_http_1_0)
        self.body = NO_BODY
