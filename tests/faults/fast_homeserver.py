"""A homeserver that costs little processor time, in a process of its own, and that fails as often as it is told.

It keeps accounts in memory, counts what it is asked for, and reads only the plain requests that the gateway sends:

    python -m tests.faults.fast_homeserver PORT [--failing SHARE] [--seed N] [--idle SECONDS]
"""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
from collections import Counter
from typing import Any, Final, cast

import uvloop

from tests.running_gateway import AS_TOKEN, SERVER_NAME

# Ours, for whoever tests.
STATE: Final = "/state"
HEAL: Final = "/heal"
FAIL: Final = "/fail"  # three of ten calls, none of which hangs
SYNC: Final = "/_matrix/client/v3/sync"
DOWNLOAD: Final = "/_matrix/client/v1/media/download/example.org/picture"

# What goes wrong with a call, and how often among those that fail. A call that hangs costs the gateway 30 seconds.
# "done": the work is done, and its answer is lost.
_FAULTS: Final = {
    "refused": 4, "reset": 4, "reset_done": 4, "cut": 3, "500": 4, "500_done": 3, "502_done": 2, "429": 4, "hang": 1,
    "hang_done": 1,
}  # fmt: skip
_NOT_LISTENING: Final = 0.02  # seconds, after a fault "refused"
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # socket(7): SO_LINGER on, for no time
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_TOKEN: Final = re.compile(rb"(?i)\r\nauthorization: *bearer ([^\r]+)")

Answer = tuple[int, dict[str, Any]]


class Homeserver:
    """The accounts, and what was asked for."""

    def __init__(self, failing: float, seed: int) -> None:
        self.failing = failing
        self.answers_all = False
        self.chance = random.Random(seed)
        self.accounts: set[str] = set()
        self.sessions: Counter[str] = Counter()  # opened, by user
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.waiting: set[_Connection] = set()
        self.connections: set[_Connection] = set()
        self.server: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True
        )

    async def be_away(self) -> None:
        """Refuse connections for a moment; those that are open stay."""
        server, self.server = self.server, None
        if server is not None:
            server.close()
            await asyncio.sleep(_NOT_LISTENING)
            await self.listen()

    def fault(self) -> str:
        """Draw what goes wrong with this call, "" for nothing."""
        if self.chance.random() >= self.failing:
            return ""
        weights = [0 if self.answers_all and "hang" in name else weight for name, weight in _FAULTS.items()]
        (fault,) = self.chance.choices(list(_FAULTS), weights)
        self.faults[fault] += 1
        return fault

    async def end_idle(self, seconds: float) -> None:
        """End connections on which nothing came for so long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds / 4)
            for connection in self.connections - self.waiting:
                if loop.time() - connection.came_at > seconds:
                    connection.transport.close()

    def answer(self, method: str, path: str, head: bytes, body: bytes) -> Answer:
        """Do what is asked for."""
        name = path.rpartition("/")[2]
        self.calls[f"{method} {name}"] += 1
        if (method, name) == ("POST", "register"):
            return self._register(head, json.loads(body))
        if (method, name) == ("POST", "login"):
            return self._log_in(head, json.loads(body))
        if name == "whoami":
            user = _token(head).partition(".")[2]
            return (200, {"user_id": _user_id(user)}) if user in self.accounts else (401, _error("M_UNKNOWN_TOKEN"))
        if path in {HEAL, FAIL}:
            self.failing, self.answers_all = (0, False) if path == HEAL else (0.3, True)
        if path == DOWNLOAD:
            return 200, {"picture": "p" * 200_000}
        told = {
            "version": {"server": {"name": "fast", "version": "1"}},
            "state": self._state() if path == STATE else {},
        }
        if "/profile/" in path:
            return 404, _error("M_UNKNOWN")
        return 200, told.get(name, {"versions": ["v1.11"]})

    def _register(self, head: bytes, body: dict[str, Any]) -> Answer:
        if _token(head) != AS_TOKEN:
            return 401, _error("M_UNKNOWN_TOKEN")
        user = body["username"]
        if user in self.accounts:
            return 400, _error("M_USER_IN_USE")
        self.accounts.add(user)
        return 200, {"user_id": _user_id(user)}

    def _log_in(self, head: bytes, body: dict[str, Any]) -> Answer:
        if _token(head) != AS_TOKEN:
            return 401, _error("M_UNKNOWN_TOKEN")
        user = body["identifier"]["user"]
        if user not in self.accounts:
            return 404, _error("M_UNKNOWN")
        self.sessions[user] += 1
        number = self.sessions[user]
        return 200, {"user_id": _user_id(user), "access_token": f"token{number}.{user}", "device_id": f"D{number}"}

    def _state(self) -> dict[str, Any]:
        return {
            "accounts": sorted(self.accounts),
            "sessions": self.sessions,
            "calls": self.calls,
            "faults": self.faults,
            "waiting": len(self.waiting),
        }


class _Connection(asyncio.Protocol):
    """Splits what comes into requests, one at a time; kept alive until the gateway ends it."""

    transport: asyncio.Transport

    def __init__(self, homeserver: Homeserver) -> None:
        self._homeserver = homeserver
        self._read = bytearray()
        self.came_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._homeserver.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.came_at = asyncio.get_running_loop().time()
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            return
        head, begin = bytes(self._read[:end]), end + 4
        length = _LENGTH.search(head)
        ends = begin + (int(length[1]) if length else 0)
        if len(self._read) < ends:
            return
        body = bytes(self._read[begin:ends])
        del self._read[:ends]
        method, target, _ = head.split(b" ", 2)
        self._requested(method.decode(), target.decode(), head, body)

    def connection_lost(self, _: Exception | None) -> None:
        self._homeserver.waiting.discard(self)
        self._homeserver.connections.discard(self)

    def _requested(self, method: str, target: str, head: bytes, body: bytes) -> None:
        path, _, query = target.partition("?")
        if path == SYNC:
            self._homeserver.waiting.add(self)
            milliseconds = re.search(r"timeout=([0-9]+)", query)
            seconds = int(milliseconds[1]) / 1000 if milliseconds else 0
            asyncio.get_running_loop().call_later(seconds, self._end_sync)
            return
        fault = "" if path in {STATE, HEAL, FAIL} else self._homeserver.fault()
        if fault and not fault.endswith("_done") and fault != "cut":
            self._fail(fault)
            return
        status, answer = self._homeserver.answer(method, path, head, body)
        octets = _octets(status, answer)
        if fault == "cut":
            self.transport.write(octets[:-5])
            self.transport.close()
        elif fault:
            self._fail(fault.removesuffix("_done"))
        else:
            self.transport.write(octets)

    def _end_sync(self) -> None:
        if self in self._homeserver.waiting:
            self._homeserver.waiting.discard(self)
            self.transport.write(_octets(200, {"next_batch": "s1", "rooms": {}, "filler": "f" * 1024}))

    def _fail(self, fault: str) -> None:
        if fault == "refused":
            task = asyncio.get_running_loop().create_task(self._homeserver.be_away())
            task.add_done_callback(lambda _: None)
            self._reset()
        elif fault == "reset":
            self._reset()
        elif fault == "500":
            self.transport.write(_octets(500, _error("M_UNKNOWN")))
        elif fault == "502":
            self.transport.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\nbad gateway")
        elif fault == "429":
            self.transport.write(_octets(429, {**_error("M_LIMIT_EXCEEDED"), "retry_after_ms": 100}))
        # And one that hangs does nothing.

    def _reset(self) -> None:
        own: socket.socket = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()


def _token(head: bytes) -> str:
    found = _TOKEN.search(head)
    return found[1].decode() if found else ""


def _user_id(user: str) -> str:
    return f"@{user}:{SERVER_NAME}"


def _error(errcode: str) -> dict[str, Any]:
    return {"errcode": errcode, "error": "as told"}


def _octets(status: int, value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--failing", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--idle", type=float, default=0, help="seconds after which a connection ends, 0: never")
    arguments = parser.parse_args()
    homeserver = Homeserver(arguments.failing, arguments.seed)
    homeserver.port = arguments.port
    await homeserver.listen()
    if arguments.idle:
        await homeserver.end_idle(arguments.idle)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
