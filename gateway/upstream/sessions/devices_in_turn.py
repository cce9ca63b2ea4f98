"""Sessions of one device, opened one after the other.

Two at once leave a second one that no logout ends on tuwunel 1.4, fail on Dendrite, and the earlier is dead before it
has been looked at wherever a device's next session ends the one before.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakValueDictionary

from gateway.upstream.sessions import Wanted


class DevicesInTurn:
    """The turns of the devices, by user and device."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def turn(self, wanted: Wanted) -> AbstractAsyncContextManager[object]:
        """Wait for the sessions of the same device that are being opened; a new device need not wait."""
        if not (device_id := wanted.request.device_id):
            return nullcontext()
        return self._locks.setdefault((wanted.localpart, device_id), asyncio.Lock())
