"""HTTP/1.1 on aiohttp: all that the gateway uses of its inner parts, and the faults in them that it mends.

The rule of this file: what is not in aiohttp's public interface is touched here and nowhere else. Its tests fail when
a new version changes one of these parts, or no longer needs a mend; the version range in pyproject.toml says so.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias, cast

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser, RawRequestMessage, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import ERROR, _ErrInfo

from gateway.sockets import EndWatch, Peer

Message: TypeAlias = tuple[RawResponseMessage, StreamReader]
# The head of a request, or why it could not be read, and the body.
_Received: TypeAlias = tuple[RawRequestMessage | _ErrInfo, StreamReader]

_END_OF_HEAD: Final = b"\r\n\r\n"
# Seconds that a client which sends no more has for its answer: a hanging /sync must not stay at the homeserver.
_HALF_CLOSED: Final = 0.5
# Octets of a chunked body that look like an end cost a call each; from one read, no more of them than this are tried.
_MOST_PIECES: Final = 64
# socket(7): SO_LINGER on, for no time.
_RESET: Final = struct.pack("ii", 1, 0)
_TOO_MANY_FIELDS: Final = "Too many headers received"
# Homeservers answer with heads far below this; it only bounds a broken one.
_MAX_ANSWER_LINE: Final = 2**16
_MAX_ANSWER_FIELDS: Final = 1024


def break_body(loop: asyncio.AbstractEventLoop, body: StreamReader, error: Exception) -> None:
    """Make whoever reads a body fail.

    Once more when readers have run: aiohttp 3.14 loses it for a reader that the end of a chunk woke just before.
    """
    body.set_exception(error)
    loop.call_soon(body.set_exception, error)


class Request:
    """A request whose head was read: what the parser made of it, its body as a stream, and the connection it came on.

    `raw_path` is the request target as it came, `raw_headers` are its fields as octets (RFC 9112 3.2 and 5).
    `request_id` is "" until somebody asks for it; when it is `answered`, nothing may follow. Not aiohttp's request,
    which takes as long to make as a head to parse.
    """

    __slots__ = (
        "answered",
        "chunked",
        "client",
        "content",
        "has_body",
        "headers",
        "keep_alive",
        "method",
        "raw_headers",
        "raw_path",
        "request_id",
        "version",
    )

    def __init__(self, message: RawRequestMessage, content: StreamReader, client: "ClientProtocol") -> None:
        self.method = message.method
        self.raw_path = message.path
        self.version = message.version
        self.headers = message.headers
        self.raw_headers = message.raw_headers
        self.chunked = message.chunked
        self.keep_alive = not message.should_close
        self.content = content
        self.has_body = content is not EMPTY_PAYLOAD
        self.client = client
        self.request_id = ""
        self.answered = False

    def _cancel(self, error: BaseException) -> None:
        """Break the body off; called by aiohttp when the connection ends."""
        self.content.set_exception(error)


@dataclass(slots=True, eq=False)
class Written:
    """What was sent of an answer: its status (0: none, the client left) and how many octets of its body.

    `keep_alive` says whether the connection goes on after it, `relayed` that it is the homeserver's.
    """

    status: int = 0
    sent: int = 0
    keep_alive: bool = False
    relayed: ClassVar = False


class _FlowControl(BaseProtocol):
    """aiohttp's, but for what it does when nothing was held back: a reader says so with each piece that it takes."""

    __slots__ = ()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's own
        if self._reading_paused:
            super().resume_reading(resume_parser)


class UpstreamProtocol(_FlowControl):
    """The client's side of a connection: aiohttp's response parser and its flow control."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read_limit: int) -> None:
        super().__init__(loop)
        self.loop = loop
        self._read_limit = read_limit

    def expect_answer(self, method: str) -> None:
        """Get ready for the answer to a request.

        With a new parser (0.6 us): only its constructor can say that the answer to a HEAD has no body, and what a
        homeserver sent behind its last answer must not become the beginning of the next one.
        """
        self._parser = HttpResponseParser(
            self,
            self._loop,
            self._read_limit,
            max_line_size=_MAX_ANSWER_LINE,
            max_field_size=_MAX_ANSWER_LINE,
            max_headers=_MAX_ANSWER_FIELDS,
            response_with_body=method != "HEAD",
            read_until_eof=True,
            auto_decompress=False,
        )

    def parse(self, data: bytes) -> tuple[Sequence[Message], bool]:
        """Return the answers whose heads these octets complete, and whether the protocol was switched.

        Raises `HttpProcessingError` for what is no HTTP. No octets: a reader that was held back goes on.
        """
        if self._parser is None:
            return (), False
        messages, upgraded, _tail = self._parser.feed_data(data)
        return messages, upgraded

    def parse_end(self) -> None:
        """Say that no more comes; raises `HttpProcessingError` when the body that is read needs more."""
        if self._parser is not None:
            self._parser.feed_eof()

    def stop_parsing(self) -> None:
        """Take no more octets."""
        self._parser = None

    async def drained(self) -> None:
        """Wait until the peer has taken enough; raises `ConnectionError` when it is gone."""
        await self._drain_helper()


class ClientProtocol(_FlowControl, web.RequestHandler):
    """The server's side of a connection. `head_timeout` (seconds) bounds how long the head of a request may take.

    `unreadable` answers a request that can't be read, with a status of RFC 9110 15.5.

    Mends faults of aiohttp 3.14: a trailer field of a chunked request becomes a field of the next one; whoever reads
    a body that turns out unreadable waits for ever; a request that asks for a WebSocket brings the first fault back.
    """

    __slots__ = (
        "_body",
        "_careless",
        "_chunked",
        "_head_timeout",
        "_head_timer",
        "_held",
        "_last_octets",
        "_leaving",
        "_length",
        "_unreadable",
        "_watch",
        "hurried",
        "listener",
        "peer",
        "unfinished",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        head_timeout: float,
        unreadable: Callable[[Request, int], Written],
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._head_timeout = head_timeout
        self._unreadable = unreadable
        self._head_timer: asyncio.TimerHandle | None = None
        # The body of the last request that was parsed, and its framing.
        self._body: StreamReader = EMPTY_PAYLOAD
        self._chunked = False
        self._length = 0
        # A chunked body whose end is not looked for; nothing behind it is taken.
        self._careless: StreamReader | None = None
        self._last_octets = b""
        self._held = b""
        # Whether an answer was begun: a plain end of the connection could be taken for its end.
        self.unfinished = False
        # Whether the running request is to be refused now, and whether it is the last one anyhow.
        self.hurried = self._leaving = False
        # Whose the connection is, as whoever takes it finds out, and where it was taken.
        self.peer, self.listener = Peer(), cast("object", None)

    async def start(self) -> None:
        """Answer requests until the connection ends, which it has when this returns.

        aiohttp's own loop makes a task, a request and a writer for each, which is a fifth of what relaying one costs.
        Its `connection_made` runs this; its `shutdown`, `connection_lost` and keep-alive timer read what is set here.
        """
        try:
            await self._answer_all()
        except asyncio.CancelledError:
            self.force_close()
            raise
        except ConnectionError:
            pass  # the client has gone
        except Exception:
            self.logger.exception("a fault of the gateway, on a connection from %s", self.peer.address)
            self.force_close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _answer_all(self) -> None:
        """Answer one request after the other."""
        while not (self._force_close or self._close):
            if self._messages:
                await asyncio.sleep(0)  # who sends many at once must not keep others waiting
            else:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            if self.gone:  # meanwhile
                return
            message, body = self._next()
            written = await self._answer_one(message, body)
            if self._paused:
                await self.drained()
            if not body.is_eof():
                await self._linger(body)
            if not written.keep_alive or self._force_close:
                return
            self._start_keepalive_timer()

    def _next(self) -> _Received:
        if self._parser is not None:
            self._parser.message_consumed()
        received = self._messages.popleft()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return received

    def _start_keepalive_timer(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    async def _answer_one(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> Written:
        if isinstance(message, _ErrInfo):
            foreseen = isinstance(message.exc, HttpProcessingError | TimeoutError)
            say = self.logger.debug if foreseen else self.logger.warning
            say("unreadable request from %s: %s", self.peer.address, type(message.exc).__name__)
            too_large = isinstance(message.exc, LineTooLong) or message.message == _TOO_MANY_FIELDS
            return self._unreadable(Request(ERROR, body, self), 431 if too_large else message.status)
        request = Request(message, body, self)
        self._current_request, self._request_in_progress = request, True  # type: ignore[assignment]
        try:
            return await self._request_handler(request)  # type: ignore[arg-type, misc, return-value]
        finally:
            self._current_request, self._request_in_progress = None, False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)

    async def _linger(self, body: StreamReader) -> None:
        """Take the rest of a body that nobody wanted, for a while: ended at once, the client may miss its answer."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not (body.is_eof() or self._force_close):
                    await body.readany()
        except (TimeoutError, web.RequestPayloadError, HttpProcessingError):
            self.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, but never the end of a chunked request and the next one in one go.

        A chunked request ends with CRLF CRLF (RFC 9112 7.1), and so does a head: octets are parsed up to each of
        these, and the request after a chunked one gets a new parser.
        """
        if not data and not self._reading_paused:
            self._parse(b"")  # what the parser held back comes before what is held here
        if self._held:
            data, self._held = self._held + data, b""
        start, size, pieces = 0, len(data), 0
        while start < size:
            # Held back by whoever reads the body, or because the client sent many requests at once.
            if self._reading_paused or len(self._messages) >= self._max_msg_queue_size:
                self._held = data[start:]
                return
            end = self._end_of_piece(data, start)
            pieces += self._chunked
            if pieces > _MOST_PIECES:
                self._careless, end = self._body, size
            self._parse(data if end - start == size else data[start:end])
            start = end

    def _end_of_piece(self, data: bytes, start: int) -> int:
        left = 0 if self._chunked or self._body.is_eof() else self._length - self._body.total_bytes
        if left > 0:
            return min(len(data), start + left)
        if start == 0 and self._last_octets:  # it may have come in two parts
            seam = (self._last_octets + data[:3]).find(_END_OF_HEAD)
            if seam >= 0:
                return seam + len(_END_OF_HEAD) - len(self._last_octets)
        found = data.find(_END_OF_HEAD, start)
        return len(data) if found < 0 else found + len(_END_OF_HEAD)

    def _parse(self, piece: bytes) -> None:
        if self._force_close or self._close or self._parser is None:
            return
        queued, in_body = len(self._messages), not self._body.is_eof()
        try:
            messages, upgraded, tail = self._parser.feed_data(piece)
        except Exception as error:  # noqa: BLE001 - not only its own: a port that is none is an IndexError
            unreadable = _ErrInfo(400, error, getattr(error, "message", ""))
            messages, upgraded, tail = [(unreadable, EMPTY_PAYLOAD)], False, b""
        if messages:
            self._take(messages)
        self._last_octets = b"" if piece.endswith(_END_OF_HEAD) else (self._last_octets + piece[-3:])[-3:]
        if self._careless is not None and self._careless.is_eof():
            self._end_behind(queued)
            return
        if self._head_timer is not None or (piece and not (messages or in_body)):
            self._watch_head(complete=bool(messages))
        if self._chunked and self._body.is_eof():
            self._chunked = False
            self._parser = self._new_parser()
        if upgraded:
            self._parser.set_upgraded(False)  # declined at once, so that what follows is parsed like everything else
            self._parse(tail)

    def _take(self, messages: Sequence[_Received]) -> None:
        self._messages += messages
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if len(self._messages) >= self._max_msg_queue_size and not self._buffer_paused:
            self._pause_reading_for_buffer()
        message, body = messages[-1]
        if not isinstance(message, _ErrInfo):
            self._body, self._chunked = body, bool(message.chunked)
            self._length = content_length(message.headers) if body is not EMPTY_PAYLOAD else 0
        elif not self._body.is_eof():
            break_body(self._loop, self._body, web.RequestPayloadError("The request body can't be read"))

    def _end_behind(self, queued: int) -> None:
        """Take no more than the `queued` requests: what came behind them was parsed with their trailers at hand."""
        while len(self._messages) > queued:
            self._messages.pop()
        self._close = True
        self._body, self._chunked, self._careless = EMPTY_PAYLOAD, False, None

    def _new_parser(self) -> HttpRequestParser:
        return HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, unless nobody can say any more whose it is.

        Asked for at once and kept: uvloop asks the system only then, which does not know it any more after a reset.
        """
        super().connection_made(transport)
        self._watch = EndWatch(self._loop, cast("asyncio.Transport", transport), self._stopped)
        if self.peername is None and not isinstance(self.sockname, str):
            transport.abort()  # type: ignore[attr-defined]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what was asked, if that takes but a moment, and end the connection.

        A client that sends no more may still read, or may have gone: TCP does not tell.
        """
        idle = self._waiter is not None and not self._messages
        complete = self._messages or self._body.is_eof()
        if idle or not complete or self.transport is None or self.ssl_context is not None:
            return False  # nothing was asked, or only half of it; and over TLS no loop keeps the other half open
        self._loop.call_later(_HALF_CLOSED, self._end_half_closed)
        return True

    def _stopped(self) -> bool:
        if self.ssl_context is not None and self.transport is not None:
            self.transport.abort()  # over TLS, who sends no more has gone; and what would say so is not read
        return self.eof_received()

    def _end_half_closed(self) -> None:
        if self.unfinished:  # it comes; if nobody takes it, sending fails
            self._loop.call_later(_HALF_CLOSED, self._end_half_closed)
        elif self.transport is not None:
            self.transport.close()

    @property
    def gone(self) -> bool:
        """Whether nobody is there to be answered."""
        return self.transport is None or self.transport.is_closing()

    @property
    def ends(self) -> bool:
        """Whether no request after the running one is taken."""
        return self._close or (self._leaving and not self._messages)

    def leave(self) -> None:
        """Take one more request at most; its answer says that it was the last one (RFC 9112 9.6)."""
        self._leaving = True

    def hurry(self) -> None:
        """Cancel the request at work, if there is one; its handler may still answer if nothing is `unfinished`."""
        self.hurried = True
        if self._request_in_progress and self._task_handler is not None:
            self._task_handler.cancel()

    def force_close(self) -> None:
        """End the connection, and so that the client can't take a part of an answer for the whole."""
        if self.unfinished:
            self.reset()
        super().force_close()

    def reset(self) -> None:
        """Break the connection off: to a client of HTTP/1.0 a plain end would be the end of the body."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def write(self, octets: bytes) -> None:
        """Send octets, unless the client has gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(octets)

    async def drained(self) -> None:
        """Wait until the client has taken enough; raises `ConnectionError` when it is gone."""
        await self._drain_helper()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what has not been parsed."""
        super().connection_lost(exc)
        self._watch_head(complete=True)
        self._held = b""

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        self._watch.start()

    def _watch_head(self, *, complete: bool) -> None:
        if complete and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif not complete and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_timeout, self._head_takes_too_long)

    def _head_takes_too_long(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:  # a request before it is still at work
            self._head_timer = self._loop.call_later(self._head_timeout, self._head_takes_too_long)
            return
        self._head_timer = None
        error = TimeoutError("the head of a request took too long")
        self._messages.append((_ErrInfo(status=408, exc=error, message=str(error)), EMPTY_PAYLOAD))
        waiter.set_result(None)

    def _process_keepalive(self) -> None:
        """Close an idle connection, but not one on which a head has begun: that has its own time."""
        if self._head_timer is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None


def content_length(headers: Mapping[str, str]) -> int:
    """Return the length that a message says (RFC 9110 8.6), 0 without one; the parser has seen to it that it is one.

    It may have any number of zeros in front, and Python reads but 4300 digits.
    """
    return int(headers.get("Content-Length", "").lstrip("0") or "0")


def idle_since(connection: web.RequestHandler) -> float | None:
    """Return since when a connection is idle, in the loop's time; None while a request comes, waits or is at work."""
    waiter, ends = connection._waiter, connection._next_keepalive_close_time  # noqa: SLF001
    idle = waiter is not None and not waiter.done() and not connection._messages  # noqa: SLF001
    beginning = getattr(connection, "_head_timer", None) is not None
    return ends - connection._keepalive_timeout if idle and not beginning else None  # noqa: SLF001
