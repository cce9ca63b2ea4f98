"""What came from a client before its time: the head that has begun, and what was sent behind the request at work.

The rule of this file: it keeps no more than a head and one read beyond `READ_LIMIT`; then the client is held back.
"""

import asyncio
from collections.abc import Callable

from gateway.http.body import READ_LIMIT
from gateway.http.parser import PartialHead
from gateway.sockets import EndWatch


class Intake:
    """Of one connection; `partial` is the head that has begun, and `held` waits behind the request at work.

    `stopped` is called when a client that is held back sends no more.
    """

    __slots__ = ("_offset", "_paused", "_stopped", "_transport", "_watch", "held", "partial")

    def __init__(self, transport: asyncio.Transport, stopped: Callable[[], bool]) -> None:
        self._transport = transport
        self._stopped = stopped
        self.partial: PartialHead | None = None
        self.held, self._offset = b"", 0
        self._paused = False
        self._watch: EndWatch | None = None

    def hold(self, data: bytes, start: int) -> None:
        """Keep `data[start:]` until the request at work is answered, behind what is kept already."""
        if self.held:
            self.held, self._offset = self.held[self._offset :] + data, 0
        else:
            self.held, self._offset = data, start
        if len(self.held) - self._offset > READ_LIMIT:
            self.pause()

    def release(self) -> tuple[bytes, int]:
        """Return what was held and where it begins; it is held no more."""
        held, self.held = self.held, b""
        return held, self._offset

    def pause(self) -> None:
        """Take no more from the client for now; that it goes away is seen all the same."""
        if not (self._paused or self._transport.is_closing()):
            self._paused = True
            self._transport.pause_reading()
            if self._watch is None:
                self._watch = EndWatch(asyncio.get_running_loop(), self._transport, self._stopped)
            self._watch.start()

    def resume(self) -> None:
        """Take more from the client, unless too much is held."""
        if self._paused and len(self.held) - self._offset <= READ_LIMIT:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def clear(self) -> None:
        """Forget all of it."""
        self.partial, self.held = None, b""

    def drop_held(self) -> bool:
        """Forget what waits behind the request at work, and take more; say whether there was any."""
        held, self.held = self.held, b""
        self.resume()
        return bool(held)
