"""What is kept of a request when it has ended: its numbers, and its line in the access log.

The rule of this file: counting costs the data plane 3 % at most (`python -m tests.benchmarks.relay --only metrics`).
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, NamedTuple

from gateway.access_log import Access, AccessLog
from gateway.core.addresses import Network
from gateway.core.headers import Hop, client_address
from gateway.errors import Refused
from gateway.http.messages import Request
from gateway.logs import Logger
from gateway.metrics import METHODS, Traffic
from gateway.web.request_ids import RequestIds

_MOST: Final = 10_000
# The longest value that is kept with its address: two IPv6 addresses with their ports, as proxies write them.
_MAX_KNOWN: Final = 128


class Ended(NamedTuple):
    """What came of a request: the status of its answer, 0 where the client left before, and octets of its body.

    `relayed`: the answer is the homeserver's. `began` is by the clock of `perf_counter`, in seconds.
    """

    route: str
    began: float
    status: int
    sent: int
    relayed: bool = False


def count(traffic: Traffic, request: Request, ended: Ended) -> None:
    """Count a request."""
    method = request.method
    traffic.answers[method if method in METHODS else "other", ended.status, ended.relayed] += 1
    traffic.received += request.body.received
    traffic.sent += ended.sent


class AccessLines:
    """Writes the line of each request to the access log."""

    def __init__(self, log: AccessLog, trusted_proxies: Sequence[Network]) -> None:
        self._log = log
        self._trusted_proxies = trusted_proxies
        # By what is said of it; reading an address takes longer than writing the line. Others choose what is said.
        self._addresses: dict[str, str] = {}

    def write(self, request: Request, hop: Hop, ended: Ended, request_id: str) -> None:
        """Tell of a request that came over `hop`; a status of 0: its client has left."""
        access = Access(
            ended.route,
            request.method,
            request.target,
            ended.status,
            request.body.received,
            ended.sent,
            hop.peer,
            self._address(request, hop),
        )
        self._log.write(access, request_id, perf_counter() - ended.began)

    def _address(self, request: Request, hop: Hop) -> str:
        values = request.headers.getall("X-Forwarded-For", ()) if hop.trusted else ()
        if len(values) == 1 and len(values[0]) <= _MAX_KNOWN:
            address = self._addresses.get(values[0])
            if address is None:
                if len(self._addresses) >= _MOST:
                    self._addresses.clear()
                address = client_address(request.raw, hop, self._trusted_proxies)
                self._addresses[values[0]] = address
        else:
            address = client_address(request.raw, hop, self._trusted_proxies) if values else ""
        return address or hop.peer


@dataclass(slots=True)
class Observers:
    """Who is told what becomes of each request; `watch` says whether anybody wants to know of every one."""

    log: Logger
    request_ids: RequestIds
    traffic: Traffic | None = None
    access: AccessLines | None = None
    watch: bool = field(init=False)

    def __post_init__(self) -> None:
        self.watch = self.traffic is not None or self.access is not None

    def refused(self, request: Request, request_id: str, refused: Refused) -> None:
        """Say in the log why a request is refused; not of what is no request: anybody can send such without end."""
        if request.method:
            say = self.log.warning if refused.status >= 500 else self.log.info
            say("request_refused", refusal=refused.kind, reason=refused.reason, request_id=request_id)

    def failed(self, request_id: str, fault: Exception) -> None:
        """Say in the log which fault of ours it is: without the variables, which hold tokens."""
        self.log.error("fault", request_id=request_id, traceback="".join(traceback.format_exception(fault)))

    def ended(self, request: Request, hop: Hop, ended: Ended, request_id: Callable[[], str]) -> None:
        """Count a request and write its line; the id is asked for only where it is needed."""
        if self.traffic is not None:
            count(self.traffic, request, ended)
        if self.access is not None and request.method:
            self.access.write(request, hop, ended, request_id())
