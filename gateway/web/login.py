"""The login paths over HTTP: which of their requests are ours, and everything else as it came to the homeserver."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.attempts import Attempt, Client
from gateway.core.addresses import Network
from gateway.core.flows import add_flows
from gateway.core.headers import Field, Hop, client_address, to_homeserver, with_request_id
from gateway.core.login_request import PASTED_TYPE, LoginRequest, PastedToken, parse_login
from gateway.errors import Refusal, Refused
from gateway.http1 import Request, Written, content_length
from gateway.logs import Logger
from gateway.sign_in import SignIn
from gateway.tasks import Background
from gateway.upstream.homeserver import HomeserverAnswered
from gateway.upstream.pool import Reply
from gateway.web.answers import refusal, send_reply
from gateway.web.relay import Relay, Relayed
from gateway.web.request_ids import RequestIds

# What tells the homeserver who is at the other end of a login.
_CLIENT_FIELDS: Final = frozenset(
    (b"user-agent", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"accept-language")
)


@dataclass(frozen=True, slots=True)
class Login:
    """Handles GET and POST on the login paths; `login_types` is empty when JWT login is off.

    A password of up to `max_password_bytes` may be a token; 0: none may.
    `body_timeout` is what the body of a login may take, in seconds.
    """

    sign_in: SignIn
    relay: Relay
    background: Background
    log: Logger
    login_types: Sequence[str]
    max_password_bytes: int
    trusted_proxies: Sequence[Network]
    max_login_body: int
    body_timeout: float
    request_ids: RequestIds
    forward_request_id: bool

    async def flows(self, request: Request, target: str, hop: Hop) -> Written:
        """Relay `GET /login` and append our flows to the answer."""
        # Clients show no field for a password where the homeserver takes none.
        offered = [*self.login_types, PASTED_TYPE] if self.max_password_bytes else self.login_types

        def rewrite(body: bytes) -> bytes | None:
            return add_flows(body, offered)

        return await self.relay(
            Relayed(request, target, hop, without={b"accept-encoding"}, rewrite=rewrite)
            if offered
            else Relayed(request, target, hop)
        )

    async def log_in(self, request: Request, target: str, hop: Hop) -> Written:
        """Answer a JWT login; any other body goes to the homeserver, the same octets."""
        if not self.login_types and not self.max_password_bytes:
            return await self.relay(Relayed(request, target, hop))
        try:
            body = await self._read(request)
        except Refused as refused:
            return self._refuse(request, hop, refused)
        client = self._client(request, hop)
        try:
            login = await self._parse(body, client)
        except Refused as refused:
            self.sign_in.attempts.refused(Attempt(client), refused)
            return send_reply(request, refusal(refused))
        if login is None:
            return await self.relay(Relayed(request, target, hop, prefix=body, without={b"expect"}))
        return await self._sign_in(login, request, client)

    async def _parse(self, body: bytes, client: Client) -> LoginRequest | None:
        try:
            login = parse_login(body, self.login_types, self.max_password_bytes)
        except Refused:
            self.sign_in.count_malformed(client)
            raise
        if not isinstance(login, PastedToken):
            return login
        if not await self.sign_in.vouches_for(login, client):
            return None
        try:
            return login.request()
        except Refused:
            self.sign_in.count_malformed(client)
            raise

    async def _sign_in(self, login: LoginRequest, request: Request, client: Client) -> Written:
        # A client that goes away must not leave a login half done; the calls in it are bounded in time.
        exchange = self.background.spawn(self.sign_in(login, client), "login")
        try:
            await asyncio.wait([exchange])
        except asyncio.CancelledError:
            exchange.add_done_callback(lambda exchange: self._left(exchange, client))
            raise
        try:
            return send_reply(request, exchange.result())
        except HomeserverAnswered as answered:
            return send_reply(request, answered.reply)
        except Refused as refused:
            return send_reply(request, refusal(refused))

    def _left(self, exchange: asyncio.Task[Reply], client: Client) -> None:
        """Say that a client did not wait for its login; what came of that is told where every login is."""
        if exchange.cancelled():
            outcome, reason = "cancelled", ""
        elif isinstance(error := exchange.exception(), Refused | HomeserverAnswered):
            outcome, reason = "refused", str(error)
        else:
            outcome, reason = ("failed", repr(error)) if error else ("session opened", "")
        address, request_id = client.address, client.request_id
        self.log.info("client_left", outcome=outcome, reason=reason, address=address, request_id=request_id)

    async def _read(self, request: Request) -> bytes:
        """Return the body, and read no more of it than shows that it is too large.

        What can't be looked into is refused, not passed on: the homeserver could find a login in it.
        """
        if _is_coded(request):
            raise Refused(Refusal.UNSUPPORTED_CODING)
        if content_length(request.headers) > self.max_login_body:
            raise Refused(Refusal.BODY_TOO_LARGE)
        expects = request.headers.get("Expect", "").lower() == "100-continue"
        if expects and request.version >= (1, 1):
            request.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_timeout):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self.max_login_body:
                        raise Refused(Refusal.BODY_TOO_LARGE)
        except web.RequestPayloadError as error:
            raise Refused(Refusal.BAD_REQUEST, "The request body broke off") from error
        except TimeoutError as error:
            raise Refused(Refusal.REQUEST_TIMEOUT, reason="the body of a login took too long") from error
        return bytes(body)

    def _refuse(self, request: Request, hop: Hop, refused: Refused) -> Written:
        """Refuse a body of which not all was read."""
        request_id = self.request_ids.of(request, hop)
        self.log.info("request_refused", refusal=refused.kind, reason=refused.reason, request_id=request_id)
        reply = refusal(refused)
        if refused.refusal is Refusal.UNSUPPORTED_CODING:
            reply.fields.append((b"Accept-Encoding", b"identity"))  # RFC 9110 15.5.16
        return send_reply(request, reply, close=not request.content.at_eof())

    def _client(self, request: Request, hop: Hop) -> Client:
        fields: list[Field] = to_homeserver(request.raw_headers, hop)
        address = client_address(request.raw_headers, hop, self.trusted_proxies)
        fields = [field for field in fields if field[0].lower() in _CLIENT_FIELDS]
        request_id = self.request_ids.of(request, hop)
        return Client(
            address=address or hop.peer,
            limited_as=address,  # a trusted proxy that does not say for whom it asks stands for all its clients
            fields=tuple(with_request_id(fields, request_id) if self.forward_request_id else fields),
            request_id=request_id,
        )


def _is_coded(request: Request) -> bool:
    """Say whether a body has a content coding (RFC 9110 8.4): homeservers, or what is before them, may decode it."""
    codings = ",".join(request.headers.getall("Content-Encoding", [])).split(",")
    return any(coding.strip(" \t").lower() not in {"", "identity"} for coding in codings)
