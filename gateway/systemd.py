"""What the gateway and systemd say to each other: readiness, status, the watchdog, and sockets that are handed over.

sd_notify(3) and sd_listen_fds(3) are a datagram and three variables, and promised not to change, so no library stands
between. Started by anybody else, the gateway says nothing to nobody.
"""

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from gateway.errors import Unusable

# sd_listen_fds(3): SD_LISTEN_FDS_START.
_FIRST: Final = 3
# What the FileDescriptorName= of a socket says when it is not for clients.
_ADMIN: Final = "admin"
# More sockets than anybody has.
_MOST: Final = 1000
# Characters of a status; systemd takes no datagram above 4096 octets.
_LONGEST: Final = 1000


class Supervisor:
    """Tells systemd how the gateway is; `environment` says where to, and whether it watches."""

    def __init__(self, environment: Mapping[str, str], pid: int | None = None) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._pause = _pause(environment, os.getpid() if pid is None else pid)

    def ready(self, status: str) -> None:
        """Say that requests are served from now on: at the start, and again after each reload, also a failed one.

        `status` is what `systemctl status` shows.
        """
        self._tell("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that the configuration is read again; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("Reloading"))

    def stopping(self, status: str) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1", _status(status))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the watchdog that the loop runs, as long as it does and the context is open."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def alive() -> None:
            nonlocal timer
            self._tell("WATCHDOG=1")
            timer = loop.call_later(self._pause, alive)

        if self._pause and self._address:
            alive()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A supervisor that does not listen is no reason to serve nobody.
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            line.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _pause(environment: Mapping[str, str], pid: int) -> float:
    """Return the seconds between two signs of life, half of what is allowed; 0: none (sd_watchdog_enabled(3))."""
    allowed, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    return int(allowed) / 2e6 if _is_number(allowed) and whose == str(pid) else 0


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_LONGEST]}"  # a line end would begin another message


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Sockets on which systemd listens for us; they stay open when we stop, so nobody is refused in between."""

    public: Sequence[socket.socket] = ()
    admin: Sequence[socket.socket] = ()


def handed_over(environment: Mapping[str, str]) -> HandedOver:
    """Take what was handed over, once in the life of a process; raises `Unusable` for what takes no connections."""
    public: list[socket.socket] = []
    admin: list[socket.socket] = []
    for number, name in enumerate(handed_names(environment, os.getpid()), _FIRST):
        (admin if name == _ADMIN else public).append(_listening(number, name))
    return HandedOver(public, admin)


def handed_names(environment: Mapping[str, str], pid: int) -> list[str]:
    """Return the names of the sockets that were handed over to process `pid`; raises `Unusable`."""
    if environment.get("LISTEN_PID") != str(pid):
        return []  # they are for another process, which left us its variables
    count = environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if not _is_number(count) or int(count) > _MOST:
        raise Unusable("LISTEN_FDS is no number of sockets. Only systemd sets it; unset it.")
    return (names + ["unknown"] * int(count))[: int(count)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16


def _listening(number: int, name: str) -> socket.socket:
    mend = "use ListenStream= and Accept=no in the socket unit"
    try:
        taken = socket.socket(fileno=number)
    except OSError as error:
        raise Unusable(f"What systemd hands over as {name!r} is no socket ({error.strerror}); {mend}.") from error
    taken.set_inheritable(False)
    accepts = taken.type == socket.SOCK_STREAM and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not accepts or taken.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        taken.close()
        raise Unusable(f"The socket that systemd hands over as {name!r} takes no connections; {mend}.")
    return taken
