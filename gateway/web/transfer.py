"""Streamed pass-through: one request to the homeserver and its answer back, octet for octet.

The rule of this file: bodies are never held whole, and an answer that breaks off at the homeserver breaks off at the
client too. Nothing here waits: each step is called by the connection on which something came.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from gateway.core.framing import IDEMPOTENT, may_have_body
from gateway.core.headers import Field, end_to_end, head_octets
from gateway.errors import Refusal, Refused
from gateway.http.body import LAST_CHUNK, NO_BODY, chunk
from gateway.http.client_connection import ClientConnection, ConnectionClosed
from gateway.http.messages import Response
from gateway.web.answers import connection_field
from gateway.web.exchange import Exchange
from gateway.web.relay import Relay, Relayer, Rewrite

# What says of a body what is not true of a rewritten one (RFC 9110 8.6 and 8.8.3).
_OF_THE_BODY: Final = frozenset((b"content-length", b"etag"))
# A body that is looked into may be this large; larger ones pass as they are.
_MAX_REWRITTEN: Final = 1024 * 1024


class Transfer:
    """One request on its way up, and its answer on its way down."""

    __slots__ = (
        "_ahead",
        "_body_sent",
        "_chunks",
        "_connecting",
        "_exchange",
        "_keep_alive",
        "_octets",
        "_prefix",
        "_relayer",
        "_response",
        "_rewrite",
        "_uploaded",
        "_upstream",
    )

    # Set when the answer begins: whether its body goes down in chunks, and whether the connection goes on behind it.
    _chunks: bool
    _keep_alive: bool

    def __init__(self, relayer: Relayer, exchange: Exchange, relay: Relay) -> None:
        self._relayer = relayer
        self._exchange = exchange
        self._prefix, without, self._rewrite = relay
        self._octets = relayer.head(exchange, without)
        self._upstream: ClientConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._response: Response | None = None
        # Whether all of the request's body has gone up, and whether a piece has gone by itself.
        self._uploaded = self._body_sent = False
        # What was read of the answer's body to be looked into.
        self._ahead: bytes | bytearray = b""

    def start(self) -> None:
        """Send the request, with its body if that is here already, over a kept connection or a new one."""
        body = self._exchange.request.body
        self._exchange.at_work = self
        if body.ended:
            self._uploaded = True
            if body is not NO_BODY:
                self._octets += self._chunked_up(self._prefix + body.take(), last=True)
        self._send(self._relayer.pool.take())

    def cancel(self) -> None:
        """End it at once."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._release()

    def _send(self, upstream: ClientConnection | None) -> None:
        if upstream is None:
            self._connecting = self._relayer.background.spawn(self._connect(), "connect")
            return
        self._upstream = upstream
        request = self._exchange.request
        if request.body.error is not None:  # while there was no connection: nothing of it goes up
            self._refuse_body()
            return
        try:
            upstream.begin(self, request.method, self._octets)
        except ConnectionClosed as error:
            self.lost(error)
            return
        if not self._uploaded:
            request.body.changed = self._upload
            self._upload()

    async def _connect(self) -> None:
        try:
            upstream = await self._relayer.pool.connect()
            self._connecting = None
            self._send(upstream)
        except Refused as refused:
            self._connecting = None
            self._exchange.refuse(refused)
        except Exception as fault:  # noqa: BLE001 - whatever it is, its client gets an answer
            self._connecting = None
            self.fail(fault)

    def _release(self) -> None:
        """Let go of both sides: the connection to the homeserver is kept if the exchange on it is whole."""
        upstream, self._upstream = self._upstream, None
        request, response = self._exchange.request, self._response
        request.body.changed = request.writable = None
        if response is not None:
            response.body.changed = None
            if upstream is not None and self._uploaded:
                upstream.finish()
        if upstream is not None:
            self._relayer.pool.give_back(upstream)

    def fail(self, fault: Exception) -> None:
        """End it, and tell the client of a fault of ours."""
        self._release()
        self._exchange.fail(fault)

    # Up.

    def _chunked_up(self, octets: bytes, *, last: bool) -> bytes:
        if not self._exchange.request.chunked:
            return octets
        return chunk(octets) + LAST_CHUNK if last else chunk(octets)

    def _upload(self) -> None:
        """Send on what came of the request's body, at the pace of the homeserver."""
        body, upstream = self._exchange.request.body, self._upstream
        if upstream is None or upstream.gone or not upstream.writable:
            return
        octets = self._prefix + body.take()
        self._prefix = b""
        self._body_sent = self._body_sent or bool(octets)
        if octets or body.ended:
            upstream.write(self._chunked_up(octets, last=body.ended))
        if body.ended:
            self._uploaded = True
            body.changed = None
        elif body.error is not None:  # the homeserver must not take a part for the whole
            upstream.abort()
            self._refuse_body()

    def _refuse_body(self) -> None:
        self._release()
        self._exchange.refuse(Refused(Refusal.BAD_REQUEST, "The request body broke off"))

    def writable(self) -> None:
        """Send on more, for the homeserver takes it again."""
        if not self._uploaded:
            self._exchange.connection.moved()
            self._upload()

    def lost(self, error: ConnectionClosed) -> None:
        """Ask again where that does no harm, or say that there is no answer."""
        upstream, self._upstream = cast("ClientConnection", self._upstream), None
        self._exchange.request.body.changed = None
        self._relayer.pool.give_back(upstream)
        if upstream.stale and self._may_repeat:
            self._send(None)
        elif error.reset and self._body_sent and not self._uploaded:  # as Synapse does at its max_upload_size
            self._exchange.refuse(Refused(Refusal.UPLOAD_REFUSED, reason=f"the homeserver broke off: {error}"))
        else:
            reason = f"the homeserver broke off: {error}"
            self._exchange.refuse(Refused(Refusal.HOMESERVER_UNREACHABLE, reason=reason))

    @property
    def _may_repeat(self) -> bool:
        """Whether the homeserver can't have acted on it, or acting twice does no harm (RFC 9110 9.2.2)."""
        return not self._body_sent and (not self._uploaded or self._exchange.request.method in IDEMPOTENT)

    # Down.

    def interim(self, response: Response) -> None:
        """Relay an interim answer (RFC 9110 15.2), at the pace of the client."""
        request, connection = self._exchange.request, self._exchange.connection
        if not request.is_http_1_0:
            connection.continue_answer(_head(response, end_to_end(response)))
            if self._upstream is not None and not connection.writable:
                self._upstream.pause_reading()
                request.writable = self._upstream.resume_reading

    def answered(self, response: Response) -> None:
        """Begin to relay the final answer."""
        self._response = response
        if response.body.error is not None and not response.body.waiting:
            self._broken()
        elif self._rewrite is not None and _is_plain_json(response):
            self._ahead = bytearray()
            response.body.changed = self._collect
            self._collect()
        else:
            self._begin_answer(response)

    def _broken(self) -> None:
        body = cast("Response", self._response).body
        self._release()
        reason = f"the homeserver broke off: {body.error}"
        self._exchange.refuse(Refused(Refusal.HOMESERVER_UNREACHABLE, reason=reason))

    def _collect(self) -> None:
        """Read the body, or as much of it as shows that it is too large to be looked into."""
        response, rewrite = cast("Response", self._response), cast("Rewrite", self._rewrite)
        body = response.body
        self._exchange.request.answering = True
        self._exchange.connection.moved()
        self._ahead += body.take()
        if body.error is not None:
            self._broken()
        elif len(self._ahead) > _MAX_REWRITTEN:
            self._begin_answer(response)
        elif body.ended:
            rewritten = rewrite(bytes(self._ahead))
            if rewritten is None:
                self._begin_answer(response)
                return
            self._ahead = rewritten
            length = (b"Content-Length", b"%d" % len(rewritten))
            self._begin_answer(response, (*end_to_end(response, _OF_THE_BODY), length))

    def _begin_answer(self, response: Response, rewritten: Sequence[Field] = ()) -> None:
        """Send the head, with the fields of a rewritten answer or its own, and what there is of the body."""
        fields = rewritten or end_to_end(response)
        has_length = bool(rewritten) or b"content-length" in response.special
        exchange = self._exchange
        request, connection, body = exchange.request, exchange.connection, response.body
        framed, self._chunks = True, False
        if not has_length and may_have_body(request.method, response.status):
            framed = not request.is_http_1_0
            if framed:
                self._chunks = True
                fields = (*fields, (b"Transfer-Encoding", b"chunked"))
        self._keep_alive = framed and exchange.keeps_alive
        if request.is_http_1_0 or not self._keep_alive:
            fields = (*fields, connection_field(keep_alive=self._keep_alive))
        octets = body.take()
        if self._ahead:
            octets = bytes(self._ahead) + octets
        octets = _head(response, fields) + (chunk(octets) if self._chunks else octets)
        if body.ended:
            self._finish(response, octets)
            return
        connection.start_answer(request, octets, framed=framed)
        body.changed = request.writable = self._download
        if body.error is not None:
            self._download()

    def _download(self) -> None:
        """Send on what came of the answer's body, at the pace of the client."""
        connection, response = self._exchange.connection, cast("Response", self._response)
        body = response.body
        if not connection.writable and body.error is None:
            return
        octets = body.take()
        if self._chunks:
            octets = chunk(octets)
        if body.ended:
            self._finish(response, octets)
        elif octets:
            connection.continue_answer(octets)
        if body.error is not None:
            self._broken()

    def _finish(self, response: Response, octets: bytes) -> None:
        exchange = self._exchange
        if self._chunks:
            octets += LAST_CHUNK
        self._release()
        exchange.connection.finish_answer(exchange.request, octets, keep_alive=self._keep_alive)
        exchange.end(response.status, response.body.received, relayed=True)


def _is_plain_json(response: Response) -> bool:
    media_types, codings = response.values(b"content-type"), response.values(b"content-encoding")
    return (
        response.status == 200
        and [each.partition(b";")[0].strip().lower() for each in media_types] == [b"application/json"]
        and all(each.lower() == b"identity" for each in codings)
    )


def _head(response: Response, fields: Sequence[Field]) -> bytes:
    start_line = f"HTTP/1.1 {response.status} {response.reason}".encode("utf-8", "surrogateescape")
    return head_octets(start_line, fields)
