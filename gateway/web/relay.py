"""Streamed pass-through: the request to the homeserver and its answer back, octet for octet.

The rule of this file: bodies are never held whole, nothing is added but `X-Forwarded-*` (and `Via` where configured),
and an answer that breaks off at the homeserver breaks off at the client too. It writes answers past aiohttp's header
building, to `request.transport`; what it uses of aiohttp's inner parts stands in `_Sent`.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawResponseMessage

from gateway.core.headers import Field, Hop, end_to_end, to_homeserver
from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Pool, request_head
from gateway.upstream.wire import Broken, Connection

Rewrite = Callable[[bytes], bytes | None]

# RFC 9110 9.2.2.
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_WITHOUT_BODY: Final = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
# A body that is looked into may be this large; larger ones pass as they are.
_MAX_REWRITTEN: Final = 1024 * 1024
# socket(7): SO_LINGER on, for no time.
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Relayed:
    """A request on its way: `target` in origin-form, `prefix` the part of its body that was read already."""

    request: web.BaseRequest
    target: str
    hop: Hop
    prefix: bytes = b""
    without: Collection[bytes] = ()
    rewrite: Rewrite | None = None
    body_sent: bool = False

    @property
    def chunked(self) -> bool:
        """Whether the body came without a length (RFC 9112 6.1)."""
        return any(name.lower() == b"transfer-encoding" for name, _ in self.request.raw_headers)

    @property
    def has_body(self) -> bool:
        """Whether there is a body to send."""
        return bool(self.prefix) or self.chunked or self.request.body_exists

    @property
    def may_repeat(self) -> bool:
        """Whether the homeserver can't have acted on it, or acting twice does no harm."""
        return not self.body_sent and (self.has_body or self.request.method in _IDEMPOTENT)


class Relay:
    """Relays requests to the homeserver over `pool`; `via` is the pseudonym for `Via`, or ""."""

    def __init__(self, pool: Pool, via: str = "") -> None:
        self._pool = pool
        self._via = via

    async def __call__(self, relayed: Relayed) -> web.StreamResponse:
        """Relay one request; raises `Refused` while nothing of an answer has gone to the client."""
        head = self._head(relayed)
        for fresh in (False, True):
            async with self._pool.connection(fresh=fresh) as connection:
                try:
                    return await _exchange(relayed, connection, head)
                except Broken as error:
                    if fresh or not connection.stale or not relayed.may_repeat:
                        raise Refused(
                            Refusal.HOMESERVER_UNREACHABLE, reason=f"the homeserver broke off: {error}"
                        ) from error
        raise AssertionError("unreachable")

    def _head(self, relayed: Relayed) -> bytes:
        request = relayed.request
        fields = to_homeserver(request.raw_headers, relayed.hop, self._via)
        if relayed.without:
            fields = [field for field in fields if field[0].lower() not in relayed.without]
        if "Host" not in request.headers:  # HTTP/1.0; RFC 9112 3.2 asks ours for one
            fields.insert(0, (b"Host", self._pool.address.authority.encode()))
        if relayed.chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        return request_head(request.method, relayed.target.encode("utf-8", "surrogateescape"), fields)


async def _exchange(relayed: Relayed, connection: Connection, head: bytes) -> web.StreamResponse:
    connection.begin(relayed.request.method, head)
    if not relayed.has_body:
        return await _answer(relayed, connection)
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


async def _answer(
    relayed: Relayed, connection: Connection, upload: asyncio.Task[None] | None = None
) -> web.StreamResponse:
    message, stream = await _final_message(relayed, connection)
    sent = await _Answer(relayed, message, stream).send()
    uploaded = upload is None or (upload.done() and not upload.cancelled() and upload.exception() is None)
    if uploaded and stream.is_eof() and not message.should_close:
        connection.finish()
    return sent


async def _send_body(relayed: Relayed, connection: Connection) -> None:
    """Stream the client's body to the homeserver, at the pace of the slower one."""
    chunked = relayed.chunked
    chunk = relayed.prefix
    content = relayed.request.content
    try:
        while True:
            if chunk:
                relayed.body_sent = True
                connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                await connection.drain()
            chunk = await content.readany()
            if not chunk:
                break
        if chunked:
            connection.write(b"0\r\n\r\n")
    except Broken:
        return  # the answer, if one came, says why
    except Exception:
        connection.abort()  # the client's body is not whole; the homeserver must not take it for that
        raise


async def _final_message(relayed: Relayed, connection: Connection) -> tuple[RawResponseMessage, StreamReader]:
    message, stream = await connection.message()
    while message.code < HTTPStatus.OK:
        if relayed.request.version >= (1, 1) and relayed.request.transport is not None:
            relayed.request.transport.write(_status_line(message) + _lines(end_to_end(message.raw_headers)))
        message, stream = await connection.message()
    return message, stream


class _Answer:
    """The homeserver's answer on its way to the client."""

    def __init__(self, relayed: Relayed, message: RawResponseMessage, stream: StreamReader) -> None:
        self._relayed = relayed
        self._request = relayed.request
        self._message = message
        self._stream = stream
        self._fields = end_to_end(message.raw_headers)
        self._bodyless = relayed.request.method == "HEAD" or message.code in _WITHOUT_BODY
        # RFC 9112 6.3: a length beside a transfer coding means nothing.
        if message.chunked:
            self._fields = [field for field in self._fields if field[0].lower() != b"content-length"]
        self._has_length = any(name.lower() == b"content-length" for name, _ in self._fields)

    async def send(self) -> web.StreamResponse:
        body, ended = b"", False
        if self._relayed.rewrite is not None and self._is_plain_json():
            body, ended = await self._read_for_rewriting()
            rewritten = self._relayed.rewrite(body) if ended else None
            if rewritten is not None:
                body = rewritten
                dropped = {b"content-length", b"etag"}
                self._fields = [field for field in self._fields if field[0].lower() not in dropped]
                self._fields.append((b"Content-Length", b"%d" % len(body)))
                self._has_length = True
        return await self._stream_out(body)

    async def _stream_out(self, body: bytes) -> web.StreamResponse:
        version = self._request.version
        chunked = not self._bodyless and not self._has_length and version >= (1, 1)
        keep_alive = self._keeps_alive(chunked=chunked)
        fields = list(self._fields)
        if chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        if not keep_alive:
            fields.append((b"Connection", b"close"))
        elif version == (1, 0):
            fields.append((b"Connection", b"keep-alive"))
        sent = _Sent(self._request, self._message.code, keep_alive=keep_alive)
        pending = _status_line(self._message) + _lines(fields)
        if self._bodyless:
            sent.write(pending)
            return sent
        try:
            if not body and not self._stream.exception():
                body = self._stream.read_nowait()
            while True:
                if body:
                    pending += b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
                if self._stream.at_eof():
                    sent.write(pending + b"0\r\n\r\n" if chunked else pending)
                    await sent.drain()
                    return sent
                sent.write(pending)
                await sent.drain()
                pending = b""
                body = await self._stream.readany()
        except Broken:
            sent.abort()
            return sent
        except BaseException:
            sent.abort()  # or an answer to this failure would stand inside of this one
            raise

    def _keeps_alive(self, *, chunked: bool) -> bool:
        if not self._request.keep_alive:
            return False
        # aiohttp 3.14 turns the last trailer field of a chunked request into a field of the next one.
        if self._relayed.chunked:
            return False
        return self._bodyless or self._has_length or chunked

    def _is_plain_json(self) -> bool:
        values = {name.lower(): value.strip().lower() for name, value in self._fields}
        return (
            self._message.code == HTTPStatus.OK
            and values.get(b"content-type", b"").partition(b";")[0].strip() == b"application/json"
            and values.get(b"content-encoding", b"identity") == b"identity"
        )

    async def _read_for_rewriting(self) -> tuple[bytes, bool]:
        body = b""
        while len(body) <= _MAX_REWRITTEN:
            chunk = await self._stream.readany()
            if not chunk:
                return body, True
            body += chunk
        return body, False


class _Sent(web.StreamResponse):
    """An answer that this file writes itself; aiohttp's server only learns that it is done and whether it goes on.

    Rests on `StreamResponse._eof_sent` and `_keep_alive`, and on `BaseRequest.writer.drain`.
    """

    def __init__(self, request: web.BaseRequest, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._transport = request.transport
        self._writer: AbstractStreamWriter = request.writer
        self._keep_alive = keep_alive
        self._eof_sent = True

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Send octets to the client, unless it has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough."""
        await self._writer.drain()

    def abort(self) -> None:
        """Break the connection off, so that the client can't take a part for the whole."""
        self._keep_alive = False
        if self._transport is None or self._transport.is_closing():
            return
        if (connection := self._transport.get_extra_info("socket")) is not None:
            # A reset: to a client of HTTP/1.0 a plain end would be the end of the body.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


def _status_line(message: RawResponseMessage) -> bytes:
    reason = (message.reason or "").encode("utf-8", "surrogateescape")
    return b"HTTP/1.1 %d %b\r\n" % (message.code, reason)


def _lines(fields: Collection[Field]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n"
