"""The login paths over HTTP: which of their requests are ours, and everything else as it came to the homeserver."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.attempts import Attempt, Client
from gateway.core.addresses import Network
from gateway.core.flows import add_flows
from gateway.core.framing import content_length
from gateway.core.headers import client_address, to_homeserver
from gateway.core.login_request import PASTED_TYPE, LoginRequest, PastedToken, parse_login
from gateway.core.routing import means_login
from gateway.errors import Refusal, Refused
from gateway.http.messages import Request
from gateway.logs import Logger
from gateway.sign_in import SignIn
from gateway.tasks import Background
from gateway.upstream.answers import HomeserverAnswered
from gateway.upstream.homeserver import Known
from gateway.upstream.pool import Reply
from gateway.web.answers import refusal
from gateway.web.exchange import Exchange
from gateway.web.relay import Relay

# What tells the homeserver who is at the other end of a login.
_CLIENT_FIELDS: Final = frozenset(
    (b"user-agent", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"accept-language")
)


@dataclass(frozen=True, slots=True)
class Login:
    """Handles GET and POST on the login paths; `login_types` is empty when JWT login is off.

    A password of up to `max_password_bytes` may be a token; 0: none may. `body_timeout` is what the body of a login
    may take, in seconds. `known` is what the homeserver has told of itself by now.
    """

    sign_in: SignIn
    background: Background
    log: Logger
    login_types: Sequence[str]
    max_password_bytes: int
    trusted_proxies: Sequence[Network]
    max_login_body: int
    body_timeout: float
    forward_request_id: bool
    known: Known

    async def flows(self, exchange: Exchange) -> Relay:
        """Relay `GET /login` and append our flows to the answer."""
        del exchange
        # Clients show no field for a password where the homeserver takes none.
        offered = [*self.login_types, PASTED_TYPE] if self.max_password_bytes else self.login_types

        def rewrite(body: bytes) -> bytes | None:
            return add_flows(body, offered)

        return Relay(without={b"accept-encoding"}, rewrite=rewrite) if offered else Relay()

    def is_login_path(self, path: str) -> bool:
        """Say whether the homeserver takes another spelling of its login path for it."""
        kind = self.known.kind
        return kind is not None and means_login(path, kind)

    async def log_in(self, exchange: Exchange) -> Reply | Relay:
        """Answer a JWT login; any other body goes to the homeserver, the same octets."""
        if not self.login_types and not self.max_password_bytes:
            return Relay()
        body = await self._read(exchange)
        client = self._client(exchange)
        try:
            login = await self._parse(body, client)
        except Refused as refused:
            self.sign_in.attempts.refused(Attempt(client), refused)
            return refusal(refused)
        if login is None:
            return Relay(prefix=body, without={b"expect"})
        return await self._sign_in(login, client)

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

    async def _sign_in(self, login: LoginRequest, client: Client) -> Reply:
        # A client that goes away must not leave a login half done; the calls in it are bounded in time.
        exchange = self.background.spawn(self.sign_in(login, client), "login")
        try:
            await asyncio.wait([exchange])
        except asyncio.CancelledError:
            exchange.add_done_callback(lambda exchange: self._left(exchange, client))
            raise
        try:
            return exchange.result()
        except HomeserverAnswered as answered:
            return answered.reply
        except Refused as refused:
            return refusal(refused)

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

    async def _read(self, exchange: Exchange) -> bytes:
        """Return the body, and read no more of it than shows that it is too large.

        What can't be looked into is refused, not passed on: the homeserver could find a login in it.
        """
        request = exchange.request
        if _is_coded(request):
            raise Refused(Refusal.UNSUPPORTED_CODING)
        said = request.special.get(b"content-length")
        if said and content_length(said[0]) > self.max_login_body:
            raise Refused(Refusal.BODY_TOO_LARGE)
        if request.headers.get("Expect", "").lower() == "100-continue" and not request.is_http_1_0:
            exchange.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self.body_timeout):
                body = await request.body.read_bounded(self.max_login_body)
        except TimeoutError as error:
            raise Refused(Refusal.REQUEST_TIMEOUT, reason="the body of a login took too long") from error
        if len(body) > self.max_login_body:
            raise Refused(Refusal.BODY_TOO_LARGE)
        return body

    def _client(self, exchange: Exchange) -> Client:
        request, hop = exchange.request, exchange.hop
        address = client_address(request.raw, hop, self.trusted_proxies)
        fields = [each for each in to_homeserver(request, hop) if each[0].lower() in _CLIENT_FIELDS]
        request_id = exchange.request_id
        return Client(
            address=address or hop.peer,
            limited_as=address,  # a trusted proxy that does not say for whom it asks stands for all its clients
            fields=(*fields, (b"X-Request-Id", request_id.encode())) if self.forward_request_id else tuple(fields),
            request_id=request_id,
        )


def _is_coded(request: Request) -> bool:
    """Say whether a body has a content coding (RFC 9110 8.4): homeservers, or what is before them, may decode it."""
    codings = ",".join(request.headers.getall("Content-Encoding", [])).split(",")
    return any(coding.strip(" \t").lower() not in {"", "identity"} for coding in codings)
