"""Streamed pass-through: the request to the homeserver and its answer back, octet for octet.

The rule of this file: bodies are never held whole, nothing is added but `X-Forwarded-*` (and `Via` where configured),
and an answer that breaks off at the homeserver breaks off at the client too.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import StreamReader
from aiohttp.http_parser import RawResponseMessage

from gateway.core.headers import Field, Hop, end_to_end, head_octets, to_homeserver, with_request_id
from gateway.errors import Refusal, Refused
from gateway.http1 import Request, Written
from gateway.upstream.pool import Pool, request_head
from gateway.upstream.wire import Broken, Connection
from gateway.web.answers import connection_fields, keeps_alive
from gateway.web.request_ids import RequestIds

Rewrite = Callable[[bytes], bytes | None]

# RFC 9110 9.2.2.
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
# RFC 9112 6.3.
_WITHOUT_BODY: Final = frozenset((204, 304))
_LAST_CHUNK: Final = b"0\r\n\r\n"
# A body that is looked into may be this large; larger ones pass as they are.
_MAX_REWRITTEN: Final = 1024 * 1024


@dataclass(slots=True)
class Relayed:
    """A request on its way: `target` in origin-form, `prefix` the part of its body that was read already."""

    request: Request
    target: str
    hop: Hop
    prefix: bytes = b""
    without: Collection[bytes] = ()
    rewrite: Rewrite | None = None
    # Whether the body goes up piece by piece, and whether a piece has gone.
    streamed: bool = False
    body_sent: bool = False

    @property
    def may_repeat(self) -> bool:
        """Whether the homeserver can't have acted on it, or acting twice does no harm."""
        return not self.body_sent and (self.streamed or self.request.method in _IDEMPOTENT)

    def begin_body(self) -> bytes:
        """Return the body, framed, if all of it is here already; any other is to be streamed."""
        content = self.request.content
        if not self.request.has_body:
            return b""
        if not content.is_eof() or content.exception() is not None:
            self.streamed = True
            return b""
        body = _framed(self.prefix + content.read_nowait(), chunked=self.request.chunked)
        return body + _LAST_CHUNK if self.request.chunked else body


class Relay:
    """Relays requests to the homeserver over `pool`; `via` is the pseudonym for `Via`, or "".

    `request_ids` are told to the homeserver, unless they are None.
    """

    def __init__(self, pool: Pool, via: str = "", request_ids: RequestIds | None = None) -> None:
        self._pool = pool
        self._via = via
        self._request_ids = request_ids

    async def __call__(self, relayed: Relayed) -> Written:
        """Relay one request; raises `Refused`, after cutting the client off where it has a part of an answer."""
        octets = self._head(relayed) + relayed.begin_body()
        connection = self._pool.take() or await self._pool.connect()
        while True:
            try:
                connection.begin(relayed.request.method, octets)
                return await (_with_upload if relayed.streamed else _answer)(relayed, connection)
            except Broken as error:
                if not (connection.stale and relayed.may_repeat):  # a new one is never stale
                    reason = f"the homeserver broke off: {error}"
                    raise Refused(Refusal.HOMESERVER_UNREACHABLE, reason=reason) from error
            finally:
                self._pool.give_back(connection)
            connection = await self._pool.connect()

    def _head(self, relayed: Relayed) -> bytes:
        request = relayed.request
        fields = to_homeserver(request.raw_headers, relayed.hop, self._via)
        if self._request_ids is not None:
            fields = with_request_id(fields, self._request_ids.of(request, relayed.hop))
        if relayed.without:
            fields = [field for field in fields if field[0].lower() not in relayed.without]
        if "Host" not in request.headers:  # HTTP/1.0; RFC 9112 3.2 asks ours for one
            fields.insert(0, self._pool.host)
        if request.chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        return request_head(request.method, relayed.target.encode("utf-8", "surrogateescape"), fields)


async def _with_upload(relayed: Relayed, connection: Connection) -> Written:
    # It ends with this function, so nothing can be lost.
    upload = asyncio.create_task(_send_body(relayed, connection))  # noqa: TID251 - held and awaited right here
    try:
        return await _answer(relayed, connection, upload)
    except Broken:
        if failure := _failure(upload):
            raise Refused(Refusal.BAD_REQUEST, "The request body broke off") from failure
        raise
    finally:
        upload.cancel()
        await asyncio.wait([upload])
        _failure(upload)  # looked at, or asyncio logs it as lost


def _failure(upload: asyncio.Task[None]) -> BaseException | None:
    return upload.exception() if upload.done() and not upload.cancelled() else None


async def _answer(relayed: Relayed, connection: Connection, upload: asyncio.Task[None] | None = None) -> Written:
    message, stream = await connection.message()
    while message.code < 200:  # RFC 9110 15.2, interim answers
        if relayed.request.version >= (1, 1):
            relayed.request.client.write(_head_of(message, end_to_end(message.raw_headers)))
        message, stream = await connection.message()
    written = await _Answer(relayed, message, stream).send()
    uploaded = upload is None or (upload.done() and not upload.cancelled() and upload.exception() is None)
    if uploaded and stream.is_eof() and not message.should_close:
        connection.finish()
    return written


async def _send_body(relayed: Relayed, connection: Connection) -> None:
    """Stream the client's body to the homeserver, at the pace of the slower one."""
    chunked = relayed.request.chunked
    chunk = relayed.prefix
    content = relayed.request.content
    try:
        while True:
            if chunk:
                relayed.body_sent = True
                connection.write(_framed(chunk, chunked=chunked))
                await connection.drain()
            chunk = await content.readany()
            if not chunk:
                break
        if chunked:
            connection.write(_LAST_CHUNK)
    except Broken:
        return  # the answer, if one came, says why
    except Exception:
        connection.abort()  # the client's body is not whole; the homeserver must not take it for that
        raise


class _Answer(Written):
    """The homeserver's answer on its way; raises `Broken`, also for one that can't be told from another."""

    __slots__ = ("_bodyless", "_fields", "_has_length", "_message", "_relayed", "_stream")
    relayed = True

    def __init__(self, relayed: Relayed, message: RawResponseMessage, stream: StreamReader) -> None:
        self._relayed = relayed
        self._message = message
        self._stream = stream
        self._fields = end_to_end(message.raw_headers)
        self._bodyless = relayed.request.method == "HEAD" or message.code in _WITHOUT_BODY
        names = b"".join([name for name, _ in message.raw_headers])
        if 0x20 in names or 0x09 in names:  # SP, HTAB; octets are looked for in their text far slower
            raise Broken("its answer has a field name with a space")  # which others read in another way
        coding = message.headers.get("Transfer-Encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise Broken("its answer has a transfer coding that nobody asked for")
            self._drop(b"content-length")  # RFC 9112 6.3: it means nothing there
        self._has_length = coding is None and "Content-Length" in message.headers
        whole_and_empty = stream.is_eof() and not stream.total_bytes and not self._bodyless
        if whole_and_empty and self._has_length and message.headers["Content-Length"].strip("0"):
            raise Broken("its answer has a length that no body has")  # 2^64 - 1, which is "none" to the parser

    async def send(self) -> Written:
        """Write the answer at the client's pace."""
        body = b""
        if self._relayed.rewrite is not None and self._is_plain_json():
            body = await self._rewritten(self._relayed.rewrite)
        client, stream = self._relayed.request.client, self._stream
        chunked = not self._bodyless and not self._has_length and self._relayed.request.version >= (1, 1)
        ends_itself = self._bodyless or self._has_length or chunked
        keep_alive = ends_itself and keeps_alive(self._relayed.request)
        pending = self._head(chunked=chunked, keep_alive=keep_alive)
        if not self._bodyless:
            try:
                if not body and stream.exception() is None:
                    body = stream.read_nowait()
                while not stream.at_eof():
                    client.unfinished = True
                    client.write(pending + _framed(body, chunked=chunked))
                    pending = b""
                    if client.writing_paused:
                        await client.drained()
                    body = await stream.readany()
            except BaseException:
                client.reset()  # or an answer to this failure would stand inside of this one
                raise
            pending += _framed(body, chunked=chunked)
            if chunked:
                pending += _LAST_CHUNK
        client.unfinished = True  # until it is on its way: a refusal behind it would be the answer to nothing
        client.write(pending)
        if client.writing_paused:
            await client.drained()
        client.unfinished = False
        self._relayed.request.answered = True
        self.status, self.sent, self.keep_alive = self._message.code, stream.total_bytes, keep_alive
        return self

    def _head(self, *, chunked: bool, keep_alive: bool) -> bytes:
        fields = self._fields
        if chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        fields += connection_fields(self._relayed.request, keep_alive=keep_alive)
        return _head_of(self._message, fields)

    def _is_plain_json(self) -> bool:
        headers = self._message.headers
        return (
            self._message.code == 200
            and headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
            and headers.get("Content-Encoding", "identity").lower() == "identity"
        )

    async def _rewritten(self, rewrite: Rewrite) -> bytes:
        """Return the body, or as much of it as shows that it is too large to be looked into."""
        body = b""
        while chunk := await self._stream.readany():
            body += chunk
            if len(body) > _MAX_REWRITTEN:
                return body
        rewritten = rewrite(body)
        if rewritten is None:
            return body
        self._drop(b"content-length", b"etag")
        self._fields.append((b"Content-Length", b"%d" % len(rewritten)))
        self._has_length = True
        return rewritten

    def _drop(self, *names: bytes) -> None:
        self._fields = [field for field in self._fields if field[0].lower() not in names]


def _framed(body: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if chunked and body else body


def _head_of(message: RawResponseMessage, fields: Sequence[Field]) -> bytes:
    reason = (message.reason or "").encode("utf-8", "surrogateescape")
    return head_octets(b"HTTP/1.1 %d %b" % (message.code, reason), fields)
