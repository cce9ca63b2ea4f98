"""What is kept of a request when it has ended: its numbers, and its line in the access log.

The rule of this file: counting costs the data plane 3 % at most (`python -m tests.benchmarks.relay --only metrics`).
"""

from collections.abc import Sequence
from typing import Final

from gateway.access_log import Access, AccessLog
from gateway.core.addresses import Network
from gateway.core.headers import Hop, client_address
from gateway.core.routing import route
from gateway.http1 import Request, Written
from gateway.metrics import METHODS, Traffic
from gateway.web.request_ids import RequestIds

_MOST: Final = 10_000
# The longest value that is kept with its address: two IPv6 addresses with their ports, as proxies write them.
_MAX_KNOWN: Final = 128


def count(traffic: Traffic, request: Request, written: Written) -> None:
    """Count a request; a status of 0: its client has left."""
    method = request.method
    traffic.answers[method if method in METHODS else "other", written.status, written.relayed] += 1
    traffic.received += request.content.total_bytes
    traffic.sent += written.sent


class AccessLines:
    """Writes the line of each request to the access log."""

    def __init__(self, log: AccessLog, ids: RequestIds, trusted_proxies: Sequence[Network]) -> None:
        self._log = log
        self._ids = ids
        self._trusted_proxies = trusted_proxies
        # By what is said of it; reading an address takes longer than writing the line. Others choose what is said.
        self._addresses: dict[str, str] = {}

    def write(self, request: Request, hop: Hop, written: Written, seconds: float) -> None:
        """Tell of a request that came over `hop` and took so many seconds; a status of 0: its client has left."""
        target = request.raw_path
        access = Access(
            route(request.method, target).value,
            request.method,
            target,
            written.status,
            request.content.total_bytes,
            written.sent,
            hop.peer,
            self._address(request, hop),
        )
        self._log.write(access, self._ids.of(request, hop), seconds)

    def _address(self, request: Request, hop: Hop) -> str:
        values = request.headers.getall("X-Forwarded-For", ()) if hop.trusted else ()
        if len(values) == 1 and len(values[0]) <= _MAX_KNOWN:
            address = self._addresses.get(values[0])
            if address is None:
                if len(self._addresses) >= _MOST:
                    self._addresses.clear()
                address = client_address(request.raw_headers, hop, self._trusted_proxies)
                self._addresses[values[0]] = address
        else:
            address = client_address(request.raw_headers, hop, self._trusted_proxies) if values else ""
        return address or hop.peer
