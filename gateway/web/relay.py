"""What is relayed, and over which connections: every request that is not ours goes to the homeserver.

The rule of this file: nothing is added to a request but `X-Forwarded-*`, and `Via` and an id where configured.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from gateway.core.headers import REQUEST_ID, Field, head_octets, to_homeserver
from gateway.http.body import NO_BODY
from gateway.tasks import Background
from gateway.upstream.pool import Pool
from gateway.web.exchange import Exchange

Rewrite = Callable[[bytes], bytes | None]


class Relay(NamedTuple):
    """How a request is relayed: `prefix` is the part of its body that was read already.

    Fields `without` stay here; `rewrite` may change the body of a plain JSON answer.
    """

    prefix: bytes = b""
    without: Collection[bytes] = ()
    rewrite: Rewrite | None = None


class Relayer:
    """Relays requests to the homeserver over `pool`; `via` is the pseudonym for `Via`, or ""."""

    def __init__(
        self, pool: Pool, background: Background, via: str = "", *, forward_request_id: bool = False
    ) -> None:
        self.pool = pool
        self.background = background
        self._further: tuple[Field, ...] = ((b"Via", b"1.1 " + via.encode()),) if via else ()
        self._forward_request_id = forward_request_id

    def head(self, exchange: Exchange, without: Collection[bytes]) -> bytes:
        """Return the head of a request as the homeserver gets it."""
        request = exchange.request
        if self._forward_request_id:
            without = REQUEST_ID.union(without)
        fields = to_homeserver(request, exchange.hop, without)
        if request.is_http_1_0 or self._further or self._forward_request_id or request.body is not NO_BODY:
            fields = self._completed(fields, exchange)
        return head_octets(f"{request.method} {exchange.target} HTTP/1.1".encode(), fields)

    def _completed(self, fields: Sequence[Field], exchange: Exchange) -> Sequence[Field]:
        completed = [*fields, *self._further]
        if b"host" not in exchange.request.special:  # HTTP/1.0; RFC 9112 3.2 asks ours for one
            completed.insert(0, self.pool.host)
        if self._forward_request_id:
            completed.append((b"X-Request-Id", exchange.request_id.encode()))
        if exchange.request.chunked:
            completed.append((b"Transfer-Encoding", b"chunked"))
        return completed
