"""The access log: a line for each request, written past structlog, which would take as long as the request itself.

The rule of this file: no query, no header field and no body ever stands in a line.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import Final, NamedTuple, TextIO

from gateway.logs import INFO_PRIORITY, LogSettings, Lossy, is_journal, printable

# How long lines wait to be written together, in seconds, and how many of them.
_PATIENCE: Final = 0.2
_MOST: Final = 500
# Secrets belong into the query; a client that writes one into the path must not have it in our log either.
_SECRET: Final = re.compile(r"((?:access_?token|login_?token)(?:=|%3d))[^/?&;#]*", re.IGNORECASE)


class Access(NamedTuple):
    """What is told of a request. Sizes are those of the bodies; `status` 0: the client left before the answer."""

    route: str
    method: str
    target: str
    status: int
    received: int
    sent: int
    peer: str
    address: str


class AccessLog:
    """Writes to `stream`; `now` gives seconds since the epoch."""

    def __init__(self, settings: LogSettings, stream: TextIO, now: Callable[[], float]) -> None:
        self._line = _as_json if settings.format == "json" else _as_text
        self._prefix = INFO_PRIORITY if is_journal(stream) else ""
        self._stream = Lossy(stream)
        self._now = now
        self._waiting: list[str] = []
        self._second = 0
        self._stamp = ""

    def write(self, access: Access, request_id: str, seconds: float) -> None:
        """Write a line, a little later and together with others; `seconds` is what the request took."""
        now = self._now()
        if (second := int(now)) != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        stamp = f"{self._stamp}.{int((now - second) * 1e6):06d}Z"
        self._waiting.append(self._prefix + self._line(stamp, access, request_id, seconds * 1000))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(_PATIENCE, self.flush)
        elif len(self._waiting) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._stream.write("".join(waiting))
            self._stream.flush()


def shown_path(target: str) -> str:
    """Return the path of a request target as it may stand in a log."""
    path = printable(target.partition("?")[0])
    return _SECRET.sub(r"\1...", path) if "oken" in path.lower() else path


def _as_text(stamp: str, access: Access, request_id: str, milliseconds: float) -> str:
    return (
        f"{stamp} [info     ] request request_id={request_id} route={access.route} method={access.method}"
        f" path={shown_path(access.target)} status={access.status} ms={milliseconds:.2f}"
        f" received={access.received} sent={access.sent} peer={access.peer} address={access.address}\n"
    )


def _as_json(stamp: str, access: Access, request_id: str, milliseconds: float) -> str:
    return (
        f'{{"request_id": "{request_id}", "route": "{access.route}", "method": "{access.method}",'
        f' "path": {encode_basestring(shown_path(access.target))}, "status": {access.status},'
        f' "ms": {milliseconds:.2f}, "received": {access.received}, "sent": {access.sent},'
        f' "peer": "{access.peer}", "address": "{access.address}", "event": "request", "level": "info",'
        f' "timestamp": "{stamp}"}}\n'
    )
