"""Matrix Authentication Service with its users in memory: its token endpoint and what we use of its admin API.

It stands before a fake homeserver, which knows the users and takes the tokens that are made here; the address of that
one leads to the login of this one.
"""

import base64
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web

from tests.fake_homeserver import FakeHomeserver, User
from tests.fake_server import FakeServer, Seen
from tests.flavours import BEHIND_MAS
from tests.running_gateway import SERVER_NAME

CLIENT_ID = "01HZCLIENT0000000000000000"
CLIENT_SECRET = "the secret: of the client / in the service"
SCOPE = "urn:matrix:client:api:* urn:matrix:client:device:"
FLOWS: list[dict[str, Any]] = [
    {"type": "m.login.password"},
    {
        "type": "m.login.sso",
        "oauth_aware_preferred": True,
        "org.matrix.msc3824.delegated_oidc_compatibility": True,
    },
    {"type": "m.login.token"},
]
_MOMENT = "2026-01-01T00:00:00Z"


@dataclass
class Account:
    """A user of the service."""

    id: str
    locked: bool = False
    deactivated: bool = False


@dataclass
class Personal:
    """A personal session."""

    user: str
    name: str
    device_id: str
    token: str
    expires_in: int | None
    revoked: bool = False


class _Failed(Exception):
    def __init__(self, status: int, title: str) -> None:
        self.response = web.json_response({"errors": [{"title": title}]}, status=status)


class FakeMas(FakeServer):
    """The state of the service; `lifetime` is that of the tokens that it gives its clients, in seconds.

    The homeserver hears of a new user `tells_late` tries to open a session later.
    """

    def __init__(self, homeserver: FakeHomeserver) -> None:
        super().__init__()
        self.homeserver = homeserver
        homeserver.compat_flows = FLOWS
        self.server_name = SERVER_NAME
        self.users: dict[str, Account] = {}
        self.reserved: set[str] = set()
        self.sessions: dict[str, Personal] = {}
        self.tokens: set[str] = set()
        # What users have besides: the kind of session, and whose it is.
        self.others: dict[str, tuple[str, str]] = {}
        self.losers: dict[str, int] = {}  # names whose registration fails, for somebody else makes them meanwhile
        self.lifetime = 300
        self.tells_late = 0
        self._untold: dict[str, int] = {}
        self.page = 100
        self._numbers: Iterator[int] = itertools.count(1)

    @property
    def settings(self) -> dict[str, Any]:
        """What the gateway needs to use it."""
        return {
            "method": "mas",
            "as_token": None,
            "mas_url": self.url,
            "mas_client_id": CLIENT_ID,
            "mas_client_secret": CLIENT_SECRET,
        }

    @property
    def open_sessions(self) -> list[Personal]:
        return [session for session in self.sessions.values() if not session.revoked]

    def add(self, name: str, *, locked: bool = False, deactivated: bool = False) -> Account:
        """Make a user, whom the homeserver hears of at once."""
        self.users[name] = Account(self._ulid(), locked, deactivated)
        self.homeserver.users[name] = User(name)
        return self.users[name]

    def _ulid(self) -> str:
        return f"01HZ{next(self._numbers):022d}"

    def _name(self, path: str) -> str:
        if "/by-username/" in path:
            return "by-username"
        return path.rpartition("/")[2]

    def _answer(self, name: str, seen: Seen) -> web.Response:
        known = {
            ("POST", "token"): self._token,
            ("GET", "site-config"): lambda _: web.json_response({"server_name": self.server_name}),
            ("GET", "by-username"): self._find,
            ("POST", "users"): self._add,
            ("POST", "finish"): self._finish,
            **{("GET", kind): self._list_others for kind in ("user-sessions", "oauth2-sessions", "compat-sessions")},
            ("POST", "personal-sessions"): self._open,
            ("GET", "personal-sessions"): self._list,
            ("POST", "revoke"): self._revoke,
        }
        if seen.target in self.answers:
            return self.answers[seen.target]()
        if (seen.method, name) not in known:
            return web.Response(status=404)
        try:
            if name != "token":
                self._check(seen)
            return known[seen.method, name](seen)
        except _Failed as failed:
            return failed.response

    def _token(self, seen: Seen) -> web.Response:
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode())
        if seen.values("authorization") != [b"Basic " + basic]:
            return web.json_response({"error": "invalid_client"}, status=401)
        form = {"grant_type": ["client_credentials"], "scope": ["urn:mas:admin"]}
        if parse_qs(seen.body.decode()) != form:
            return web.json_response({"error": "invalid_request"}, status=400)
        token = f"mat_{next(self._numbers)}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime})

    def _check(self, seen: Seen) -> None:
        scheme, _, token = next(iter(seen.values("authorization")), b"").decode().partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise _Failed(401, "Unknown access token")
        assert seen.path.startswith("/api/admin/v1/")

    def _find(self, seen: Seen) -> web.Response:
        name = unquote(seen.path.rpartition("/")[2])
        for known in self.users:
            if known.lower() == name.lower():  # whatever the case
                return self._user(known)
        raise _Failed(404, f"User with username {name!r} not found")

    def _add(self, seen: Seen) -> web.Response:
        name = seen.json()["username"]
        if name in self.losers:
            self.add(name)
            raise _Failed(self.losers.pop(name), "Username is reserved by the homeserver")
        known = seen.json().get("skip_homeserver_check", False)
        if name in self.users or name in self.reserved or (name in self.homeserver.users and not known):
            raise _Failed(409, "User already exists")
        if not name or name.startswith("_") or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=_-./+"):
            raise _Failed(400, "Username is not valid")
        self.add(name)
        self._untold[name] = self.tells_late
        return self._user(name, 201)

    def _user(self, name: str, status: int = 200) -> web.Response:
        account = self.users[name]
        attributes = {
            "username": name,
            "created_at": _MOMENT,
            "locked_at": _MOMENT if account.locked else None,
            "deactivated_at": _MOMENT if account.deactivated else None,
            "admin": False,
        }
        data = {"type": "user", "id": account.id, "attributes": attributes}
        return web.json_response({"data": data}, status=status)

    def _open(self, seen: Seen) -> web.Response:
        body = seen.json()
        name = self._by_id(body["actor_user_id"])
        if self.users[name].deactivated:
            raise _Failed(410, "User is not active")
        if self._untold.get(name, 0) > 0:
            self._untold[name] -= 1
            raise _Failed(500, "Failed to provision device")
        assert body["scope"].startswith(SCOPE)
        device_id = body["scope"].removeprefix(SCOPE)
        assert 1 <= len(device_id) <= 255
        assert device_id.isascii()
        assert not set(device_id) & set(' "\\')
        number = next(self._numbers)
        session = Personal(name, body["human_name"], device_id, f"mpt_{number}", body.get("expires_in"))
        session_id = self._ulid()
        self.sessions[session_id] = session
        self.homeserver.sessions[session.token] = f"@{name}:{SERVER_NAME}"
        self.homeserver.devices[session.token] = device_id
        attributes = {"actor_user_id": body["actor_user_id"], "access_token": session.token}
        data = {"type": "personal-session", "id": session_id, "attributes": attributes}
        return web.json_response({"data": data}, status=201)

    def _list(self, seen: Seen) -> web.Response:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(seen.target).query).items()}
        assert asked["filter[status]"] == "active"
        owner = self._by_id(asked["filter[actor_user]"])
        found = [
            {"type": "personal-session", "id": session_id, "attributes": {"human_name": session.name}}
            for session_id, session in self.sessions.items()
            if session.user == owner and not session.revoked
        ]
        return web.json_response({"data": found[: min(self.page, int(asked["page[first]"]))]})

    def _revoke(self, seen: Seen) -> web.Response:
        session = self.sessions.get(seen.path.split("/")[-2])
        if session is None:
            raise _Failed(404, "Personal session not found")
        if session.revoked:
            raise _Failed(409, "Personal session already revoked")
        session.revoked = True
        del self.homeserver.sessions[session.token], self.homeserver.devices[session.token]
        return web.json_response({"data": {}})

    def revoke(self, token: str) -> None:
        """End a session past the gateway."""
        next(each for each in self.sessions.values() if each.token == token).revoked = True
        del self.homeserver.sessions[token], self.homeserver.devices[token]

    def _list_others(self, seen: Seen) -> web.Response:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(seen.target).query).items()}
        assert asked["filter[status]"] == "active"
        wanted = (seen.path.rpartition("/")[2], self._by_id(asked["filter[user]"]))
        found = [{"id": session_id} for session_id, other in self.others.items() if other == wanted]
        return web.json_response({"data": found[: min(self.page, int(asked["page[first]"]))]})

    def _finish(self, seen: Seen) -> web.Response:
        if self.others.pop(seen.path.split("/")[-2], None) is None:
            raise _Failed(400, "Session is already finished")
        return web.json_response({"data": {}})

    def add_others(self, name: str) -> None:
        """Give a user sessions of every other kind."""
        for kind in ("user-sessions", "oauth2-sessions", "compat-sessions"):
            self.others |= {self._ulid(): (kind, name) for _ in range(2)}

    def _by_id(self, user_id: str) -> str:
        for name, account in self.users.items():
            if account.id == user_id:
                return name
        raise _Failed(404, "User not found")


@asynccontextmanager
async def running_mas() -> AsyncIterator[FakeMas]:
    """Run the service and the homeserver behind it."""
    homeserver = FakeHomeserver(BEHIND_MAS)
    mas = FakeMas(homeserver)
    await homeserver.start()
    await mas.start()
    try:
        yield mas
    finally:
        await mas.stop()
        await homeserver.stop()
