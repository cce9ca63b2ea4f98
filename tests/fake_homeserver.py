"""A homeserver with its accounts in memory: a real server on a free port that answers as the named software does.

Rule: it knows only what the gateway relies on; every request is kept as it came, and `faults` make a call go wrong.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web

from tests.running_gateway import AS_TOKEN, SERVER_NAME

Refusal = tuple[int, str]
CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "X-Requested-With, Date"}


@dataclass(frozen=True)
class Flavour:
    """How one software differs from the others."""

    name: str
    unknown_user: Refusal
    no_profile: Refusal = (404, "M_NOT_FOUND")
    whoami_makes_users: bool = False
    whoami_knows_all: bool = False
    needs_password: bool = False
    needs_from_appservice: bool = False
    deactivated: Refusal = (403, "M_USER_DEACTIVATED")
    locked: Refusal = (401, "M_USER_LOCKED")


SYNAPSE = Flavour("Synapse", (404, "M_UNKNOWN"), no_profile=(404, "M_UNKNOWN"))
TUWUNEL = Flavour("Tuwunel", (400, "M_INVALID_PARAM"), whoami_knows_all=True, needs_password=True)
CONTINUWUITY = Flavour("continuwuity", (404, "M_NOT_FOUND"), whoami_knows_all=True, needs_password=True)
PALPO = Flavour(
    "Palpo",
    (403, "M_FORBIDDEN"),
    whoami_makes_users=True,
    needs_from_appservice=True,
    locked=(403, "M_USER_LOCKED"),
)
FLAVOURS = (SYNAPSE, TUWUNEL, CONTINUWUITY, PALPO)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    target: str
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def values(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass
class Fault:
    """What goes wrong with a call, `times` times: an answer instead of the work, a pause, or a broken connection.

    `breaks` is "head" (no answer, no work), "after" (the work is done, no answer) or "body" (half an answer).
    """

    answer: Refusal | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    wait: asyncio.Event | None = None
    breaks: str = ""
    times: int = 1


@dataclass
class User:
    """An account."""

    display_name: str | None = None
    avatar: str | None = None
    password: str | None = None
    deactivated: bool = False
    locked: bool = False
    was_guest: bool = False


class _Refused(Exception):
    def __init__(self, refusal: Refusal, error: str = "refused", **extra: Any) -> None:
        self.response = web.json_response(
            {"errcode": refusal[1], "error": error, **extra}, status=refusal[0], headers=CORS
        )


class FakeHomeserver:
    """The state of the homeserver, and what it was asked."""

    def __init__(self, flavour: Flavour = SYNAPSE) -> None:
        self.flavour = flavour
        self.users: dict[str, User] = {}
        self.sessions: dict[str, str] = {}
        self.media: dict[str, tuple[str, bytes]] = {}
        self.devices: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.faults: dict[str, Fault] = {}
        self.answers: dict[str, Callable[[], web.Response]] = {}
        self.arrived = asyncio.Event()
        self.port = 0
        self._numbers: Iterator[int] = itertools.count(1)
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def registered(self) -> int:
        """How often an account was asked for."""
        return len(self.to("/register"))

    def to(self, end: str) -> list[Seen]:
        """Return the requests whose path ends so."""
        return [seen for seen in self.seen if seen.path.endswith(end)]

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, auto_decompress=False), shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.raw_path, tuple(request.raw_headers), await request.read())
        self.seen.append(seen)
        self.arrived.set()
        name = self._name(seen.path)
        fault = self.faults.get(name)
        if fault is None or fault.times == 0:
            return self._answer(name, seen)
        fault.times -= 1
        if fault.wait is not None:
            await fault.wait.wait()
        if fault.answer is not None:
            return self._refusal(fault)
        response = None if fault.breaks == "head" else self._answer(name, seen)
        if fault.breaks and response is not None:
            self._break_off(request, response, fault.breaks)
        if fault.breaks:
            assert request.transport is not None
            request.transport.close()
        return response or web.Response()

    @staticmethod
    def _refusal(fault: Fault) -> web.Response:
        assert fault.answer is not None
        response = _Refused(fault.answer, "as told", **fault.extra).response
        response.headers.update(fault.headers)
        return response

    @staticmethod
    def _break_off(request: web.BaseRequest, response: web.Response, when: str) -> None:
        if when == "body":
            assert isinstance(response.body, bytes)
            assert request.transport is not None
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            request.transport.write(head % len(response.body) + response.body[:-5])

    def _name(self, path: str) -> str:
        if path.startswith("/_matrix/client/v3/profile/"):
            return "profile"
        if path.startswith("/_matrix/client/v3/devices/"):
            return "device"
        return path.rpartition("/")[2]

    def _answer(self, name: str, seen: Seen) -> web.Response:
        if seen.target in self.answers:
            return self.answers[seen.target]()
        known = {
            ("POST", "register"): self._register,
            ("POST", "login"): self._login,
            ("GET", "login"): self._flows,
            ("GET", "profile"): self._profile,
            ("PUT", "profile"): self._set_profile,
            ("POST", "upload"): self._upload,
            ("GET", "whoami"): self._whoami,
            ("POST", "all"): self._log_out_all,
            ("GET", "devices"): self._list_devices,
            ("DELETE", "device"): self._delete_device,
            ("GET", "version"): self._version,
            ("GET", "versions"): self._versions,
        }
        try:
            return known.get((seen.method, name), self._unrecognized)(seen)
        except _Refused as refused:
            return refused.response

    def _register(self, seen: Seen) -> web.Response:
        self._check_appservice(seen)
        body = seen.json()
        name = body["username"]
        if self.flavour.needs_from_appservice and "from_appservice=true" not in seen.target:
            raise _Refused((403, "M_FORBIDDEN"), "registration has been disabled")
        if name in self.users:
            raise _Refused((400, "M_USER_IN_USE"))
        self.users[name] = User(was_guest=self.flavour.needs_password and not body.get("password"))
        return self._json({"user_id": f"@{name}:{SERVER_NAME}"})

    def _login(self, seen: Seen) -> web.Response:
        try:
            body = seen.json()
        except ValueError:
            raise _Refused((400, "M_NOT_JSON")) from None
        if not isinstance(body, dict):
            raise _Refused((400, "M_BAD_JSON"))
        if body.get("type") == "m.login.password":
            name = body["identifier"]["user"]
            if name not in self.users or self.users[name].password != body["password"]:
                raise _Refused((403, "M_FORBIDDEN"), "Invalid username or password")
        elif body.get("type") == "m.login.application_service":
            self._check_appservice(seen)
            name = body["identifier"]["user"]
        else:
            raise _Refused((400, "M_UNKNOWN"), "Unknown login type")
        return self._session(name, body)

    def _session(self, name: str, body: dict[str, Any]) -> web.Response:
        user = self.users.get(name)
        if user is None:
            raise _Refused(self.flavour.unknown_user)
        if user.deactivated:
            raise _Refused(self.flavour.deactivated)
        if user.locked:
            raise _Refused(self.flavour.locked, soft_logout=True)
        number = next(self._numbers)
        user_id, token = f"@{name}:{SERVER_NAME}", f"syt_{number}"
        self.sessions[token] = user_id
        self.devices[token] = body.get("device_id") or f"DEVICE{number}"
        session: dict[str, Any] = {
            "user_id": user_id,
            "access_token": token,
            "home_server": SERVER_NAME,
            "device_id": self.devices[token],
        }
        if body.get("refresh_token"):
            session |= {"refresh_token": f"syr_{number}", "expires_in_ms": 300000}
        return self._json(session)

    def _flows(self, _seen: Seen) -> web.Response:
        return self._json({"flows": [{"type": "m.login.password"}, {"type": "m.login.application_service"}]})

    def _profile(self, seen: Seen) -> web.Response:
        if "%3A" not in seen.path.split("/")[5]:
            raise _Refused((400, "M_INVALID_PARAM"))
        user = self.users.get(self._named(seen.path))
        if user is None:
            raise _Refused(self.flavour.no_profile)
        if user.display_name is None and self.flavour is SYNAPSE:
            raise _Refused((404, "M_NOT_FOUND"))
        return self._json({"displayname": user.display_name})

    def _set_profile(self, seen: Seen) -> web.Response:
        self._check_appservice(seen)
        user, body = self.users[self._named(seen.path)], seen.json()
        user.display_name = body.get("displayname", user.display_name)
        user.avatar = body.get("avatar_url", user.avatar)
        return self._json({})

    def _upload(self, seen: Seen) -> web.Response:
        self._check_appservice(seen)
        mxc = f"mxc://{SERVER_NAME}/media{next(self._numbers)}"
        self.media[mxc] = (seen.values("content-type")[0].decode(), seen.body)
        return self._json({"content_uri": mxc})

    def _whoami(self, seen: Seen) -> web.Response:
        tokens = seen.values("authorization")
        if tokens and (user_id := self.sessions.get(tokens[0].decode().removeprefix("Bearer "))):
            return self._json({"user_id": user_id})
        self._check_appservice(seen)
        user_id = parse_qs(urlsplit(seen.target).query).get("user_id", [f"@_login_gateway:{SERVER_NAME}"])[0]
        if user_id == f"@_login_gateway:{SERVER_NAME}":
            return self._json({"user_id": user_id})
        name = user_id[1:].partition(":")[0]
        if self.flavour.whoami_makes_users:
            self.users.setdefault(name, User())
        if name not in self.users and not self.flavour.whoami_knows_all:
            raise _Refused((403, "M_FORBIDDEN"))
        return self._json({"user_id": user_id})

    def _log_out_all(self, seen: Seen) -> web.Response:
        return self._end_sessions(list(self._sessions_of(seen)))

    def _list_devices(self, seen: Seen) -> web.Response:
        return self._json({"devices": [{"device_id": self.devices[token]} for token in self._sessions_of(seen)]})

    def _delete_device(self, seen: Seen) -> web.Response:
        wanted = unquote(seen.path.rpartition("/")[2])
        return self._end_sessions([token for token in self._sessions_of(seen) if self.devices[token] == wanted])

    def _sessions_of(self, seen: Seen) -> Iterator[str]:
        """The sessions of the user that the application service names."""
        self._check_appservice(seen)
        user_id = parse_qs(urlsplit(seen.target).query)["user_id"][0]
        if user_id[1:].partition(":")[0] not in self.users:
            raise _Refused((403, "M_FORBIDDEN"))
        return (token for token, owner in self.sessions.items() if owner == user_id)

    def _end_sessions(self, tokens: list[str]) -> web.Response:
        for token in tokens:
            del self.sessions[token], self.devices[token]
        return self._json({})

    def _version(self, _seen: Seen) -> web.Response:
        return self._json({"server": {"name": self.flavour.name, "version": "1"}})

    def _versions(self, _seen: Seen) -> web.Response:
        return self._json({"versions": ["v1.11"]})

    def _unrecognized(self, _seen: Seen) -> web.Response:
        raise _Refused((404, "M_UNRECOGNIZED"))

    @staticmethod
    def _check_appservice(seen: Seen) -> None:
        if seen.values("authorization") != [f"Bearer {AS_TOKEN}".encode()]:
            raise _Refused((401, "M_UNKNOWN_TOKEN"))

    @staticmethod
    def _named(path: str) -> str:
        return unquote(path.split("/")[5])[1:].partition(":")[0]

    @staticmethod
    def _json(value: dict[str, Any]) -> web.Response:
        return web.json_response(value, headers={**CORS, "Server": "fake/1"})


@asynccontextmanager
async def running_homeserver(flavour: Flavour = SYNAPSE) -> AsyncIterator[FakeHomeserver]:
    """Run a fake homeserver; it may be stopped and started again on its port."""
    homeserver = FakeHomeserver(flavour)
    await homeserver.start()
    try:
        yield homeserver
    finally:
        await homeserver.stop()
