"""A homeserver with its accounts in memory: a real server on a free port that answers as the named software does.

Rule: it knows only what the gateway relies on; every request is kept as it came, and `faults` make a call go wrong.
"""

import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from tests.fake_server import CORS, FakeServer, Fault, Seen
from tests.flavours import GRAMMAR, SYNAPSE, Flavour, Refusal
from tests.running_gateway import AS_TOKEN, SERVER_NAME

__all__ = ["JWT_SECRET", "FakeHomeserver", "Fault", "Seen", "User", "running_homeserver"]

# The secret of the homeserver's own JWT login.
JWT_SECRET = "the secret that the homeserver has, 32 bytes or more"


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


class FakeHomeserver(FakeServer):
    """The state of the homeserver, and what it was asked."""

    def __init__(self, flavour: Flavour = SYNAPSE) -> None:
        super().__init__()
        self.flavour = flavour
        self.namespace = re.compile(rf"@.*:{re.escape(SERVER_NAME)}")
        self.reserved = re.compile(r"(?!)")  # localparts of another application service, in an exclusive namespace
        self.being_made: set[str] = set()
        self.refused: set[str] = set()  # tokens that have expired elsewhere
        self.hollow: dict[str, tuple[str, str]] = {}  # Dendrite's sessions of users who are not there
        self.jwt_seen: set[str] = set()
        self.is_down = False  # its database is
        self.jwt_claims: dict[str, Any] | None = None  # what tokens must say; None: there is no JWT login
        self.subject_claim = "sub"
        # Of the service that the login was left to, where our address leads to both.
        self.compat_flows: list[dict[str, Any]] | None = None
        self.users: dict[str, User] = {}
        self.sessions: dict[str, str] = {}
        self.media: dict[str, tuple[str, bytes]] = {}
        self.devices: dict[str, str] = {}
        self.device_names: dict[str, str] = {}
        self._numbers: Iterator[int] = itertools.count(1)

    @property
    def registered(self) -> int:
        """How often an account was asked for."""
        return len(self.to("/register"))

    def devices_of(self, user_id: str) -> set[str]:
        """Return the devices of a user."""
        return {self.devices[token] for token, owner in self.sessions.items() if owner == user_id}

    def named_devices(self, token: str) -> dict[str, str | None]:
        """Return the devices of a session's user with their names."""
        return {device: self.device_names.get(device) for device in self.devices_of(self.sessions[token])}

    def lose(self, localpart: str) -> None:
        """Take an account away, as an older backup does."""
        del self.users[localpart]
        self._end_sessions(
            [token for token, owner in self.sessions.items() if owner == f"@{localpart}:{SERVER_NAME}"]
        )

    def _name(self, path: str) -> str:
        if path.startswith("/_matrix/client/v3/profile/"):
            return "profile"
        if path.startswith("/_matrix/client/v3/devices/"):
            return "device"
        if "/media/download/" in path:
            return "download"
        if path == self.flavour.told_by:
            return "software"
        return path.rpartition("/")[2]

    def _answer(self, name: str, seen: Seen) -> web.Response:
        if seen.target in self.answers:
            return self.answers[seen.target]()
        called = "asserted" if name == "whoami" and "user_id=" in seen.target else name
        if self.is_down and called in self.flavour.down:
            status, errcode, error = self.flavour.down[called]
            return web.json_response({"errcode": errcode, "error": error}, status=status, headers=CORS)
        known = {
            ("POST", "register"): self._register,
            ("POST", "login"): self._login,
            ("GET", "login"): self._flows,
            ("GET", "auth_metadata"): self._auth_metadata,
            ("GET", "profile"): self._profile,
            ("PUT", "profile"): self._set_profile,
            ("POST", "upload"): self._upload,
            ("GET", "download"): self._download,
            ("GET", "whoami"): self._whoami,
            ("POST", "refresh"): self._refresh,
            ("POST", "logout"): self._log_out,
            ("POST", "all"): self._log_out_all,
            ("GET", "devices"): self._list_devices,
            ("DELETE", "device"): self._delete_device,
            ("PUT", "device"): self._name_device,
            ("GET", "available"): self._available,
            ("GET", "software"): self._software,
            ("GET", "server"): self._key,
            ("GET", "versions"): self._versions,
        }
        try:
            return known.get((seen.method, name), self._unrecognized)(seen)
        except _Refused as refused:
            return refused.response

    def _register(self, seen: Seen) -> web.Response:
        self._check_appservice(seen, self.flavour.register_bad_token)
        body = seen.json()
        name = body["username"]
        if self.flavour.needs_from_appservice and "from_appservice=true" not in seen.target:
            raise _Refused((403, "M_FORBIDDEN"), "registration has been disabled")
        if not self.flavour.has_login:  # and no registration
            raise _Refused((404, "M_UNRECOGNIZED"))
        if not self.flavour.names.fullmatch(name):
            raise _Refused((400, "M_INVALID_USERNAME"))
        if len(f"@{name}:{SERVER_NAME}") > self.flavour.max_user_id:
            raise _Refused((400, "M_BAD_JSON"))
        if not self._is_ours(name):
            raise _Refused((400, "M_EXCLUSIVE"), "Invalid user localpart for this application service.")
        if self.flavour.reserved is None and self.reserved.fullmatch(name):
            raise _Refused((400, "M_EXCLUSIVE"), "This user ID is reserved by an application service.")
        if name in self.users:
            raise _Refused((400, "M_USER_IN_USE"))
        if self.is_down:  # Dendrite's way: it says so, and makes nobody
            return self._json({"user_id": f"@{name}:{SERVER_NAME}"})
        self.users[name] = User(
            name if self.flavour.names_by_localpart else None,
            was_guest=self.flavour.needs_password and not body.get("password"),
        )
        for token in [token for token, (owner, _) in self.hollow.items() if owner == f"@{name}:{SERVER_NAME}"]:
            self.sessions[token], self.devices[token] = self.hollow.pop(token)
        return self._json({"user_id": f"@{name}:{SERVER_NAME}"})

    def _login(self, seen: Seen) -> web.Response:
        try:
            body = seen.json()
        except ValueError:
            raise _Refused((400, "M_NOT_JSON")) from None
        if not isinstance(body, dict):
            raise _Refused((400, "M_BAD_JSON"))
        if not self.flavour.has_login:
            raise _Refused((404, "M_UNRECOGNIZED"))
        if body.get("type") == "m.login.password":
            name = body["identifier"]["user"]
            if name not in self.users or self.users[name].password != body["password"]:
                raise _Refused((403, "M_FORBIDDEN"), "Invalid username or password")
        elif body.get("type") == "m.login.application_service":
            self._check_appservice(seen, self.flavour.bad_token)
            name, _, server = body["identifier"]["user"].removeprefix("@").partition(":")
            if server not in {"", SERVER_NAME}:
                raise _Refused((400, "M_UNKNOWN"), "User ID does not belong to this homeserver")
            if self.flavour.folds_login_names:
                name = name.lower()
            if not self._is_ours(name):
                raise _Refused(self.flavour.outside_namespace, self.flavour.outside_error)
            if self.flavour.checks_login_names and not self.flavour.names.fullmatch(name):
                raise _Refused((400, "M_INVALID_USERNAME"))
        elif body.get("type") == "org.matrix.login.jwt":
            name = self._named_by_token(body["token"])
        else:
            raise _Refused((400, "M_UNKNOWN"), "Unknown login type")
        return self._session(name, body)

    def _named_by_token(self, text: str) -> str:
        """The user of a token, who is made where there is none (Synapse, Palpo and tuwunel do so)."""
        if self.jwt_claims is None:
            status, errcode, error = self.flavour.no_jwt
            raise _Refused((status, errcode), error)
        try:
            token = jwt.decode(text, OctKey.import_key(JWT_SECRET), algorithms=["HS256"])
        except JoseError:
            status, errcode, error = self.flavour.refused_jwt
            raise _Refused((status, errcode), error) from None
        claims = token.claims
        for name, value in self.jwt_claims.items():
            if claims.get(name) != value:
                raise _Refused((403, "M_FORBIDDEN"), f"JWT validation failed: invalid_claim: Invalid claim '{name}'")
        if claims["exp"] < time.time():
            raise _Refused((403, "M_FORBIDDEN"), "JWT validation failed: expired_token: The token is expired")
        if self.subject_claim not in claims:
            status, errcode, error = self.flavour.nobodys_jwt
            raise _Refused((status, errcode), error)
        assert claims["nbf"] == claims["iat"] == claims["exp"] - 60
        assert claims["jti"] not in self.jwt_seen
        self.jwt_seen.add(claims["jti"])
        name = str(claims[self.subject_claim])
        if name in self.being_made:  # by somebody else at this moment
            self.being_made.remove(name)
            self.users[name] = User(name)
            raise _Refused((400, "M_USER_IN_USE"), "User ID already taken.")
        self.users.setdefault(name, User(claims.get("name", name)))
        return name

    def _is_ours(self, name: str) -> bool:
        return self.namespace.fullmatch(f"@{name}:{SERVER_NAME}") is not None

    def _session(self, name: str, body: dict[str, Any]) -> web.Response:
        user, flavour = self.users.get(name), self.flavour
        if name in flavour.own_localparts:
            user = self.users.setdefault(name, User())
        if user is None and flavour.unknown_user:
            raise _Refused(flavour.unknown_user, flavour.unknown_error)
        if user and user.deactivated and flavour.deactivated:
            raise _Refused(flavour.deactivated)
        if user and user.locked and flavour.locked:
            raise _Refused(flavour.locked, soft_logout=True)
        number = next(self._numbers)
        user_id, token = f"@{name}:{SERVER_NAME}", f"syt_{number}"
        device_id = body.get("device_id") or f"DEVICE{number}"
        if flavour.ends_old:
            self._end_sessions(
                [old for old, id_ in self.devices.items() if (self.sessions[old], id_) == (user_id, device_id)]
            )
        if device_name := body.get("initial_device_display_name"):
            self.device_names[device_id] = device_name
        if user is not None:
            self.sessions[token], self.devices[token] = user_id, device_id
        else:
            self.hollow[token] = user_id, device_id
        session: dict[str, Any] = {
            "user_id": user_id,
            "access_token": token,
            "home_server": SERVER_NAME,
            "device_id": device_id,
        }
        if body.get("refresh_token") and flavour.refreshes is not False:
            session |= {"refresh_token": f"syr_{number}"} | ({"expires_in_ms": 300000} if flavour.refreshes else {})
        return self._json(session)

    def _refresh(self, seen: Seen) -> web.Response:
        old = f"syt_{seen.json()['refresh_token'].removeprefix('syr_')}"
        if old not in self.sessions:
            raise _Refused((401, "M_UNKNOWN_TOKEN"))
        number = next(self._numbers)
        self.sessions[f"syt_{number}"], self.devices[f"syt_{number}"] = self.sessions.pop(old), self.devices.pop(old)
        return self._json(
            {"access_token": f"syt_{number}", "refresh_token": f"syr_{number}", "expires_in_ms": 300000}
        )

    def _flows(self, _seen: Seen) -> web.Response:
        if self.compat_flows is not None:
            return self._json({"flows": self.compat_flows})
        if not self.flavour.has_login:
            raise _Refused((404, "M_UNRECOGNIZED"))
        types = ["m.login.password", "m.login.application_service"]
        listed = self.jwt_claims is not None if self.flavour.lists_jwt is None else self.flavour.lists_jwt
        types += ["org.matrix.login.jwt"] if listed else []
        return self._json({"flows": [{"type": kind} for kind in types]})

    def _auth_metadata(self, _seen: Seen) -> web.Response:
        if self.flavour.has_login:
            raise _Refused((404, "M_UNRECOGNIZED"))
        return self._json({"issuer": "https://account.example.org/"})

    def _profile(self, seen: Seen) -> web.Response:
        if "%3A" not in seen.path.split("/")[5]:
            raise _Refused((400, "M_INVALID_PARAM"))
        user = self.users.get(self._named(seen.path))
        if user is None:
            if self.flavour.no_profile is None:
                return self._json({})
            raise _Refused(self.flavour.no_profile)
        if user.display_name is None and self.flavour.hides_empty_profiles:
            raise _Refused((404, "M_NOT_FOUND"))
        return self._json({"displayname": user.display_name})

    def _set_profile(self, seen: Seen) -> web.Response:
        self._assert(seen)
        user, body = self.users[self._named(seen.path)], seen.json()
        user.display_name = body.get("displayname", user.display_name)
        user.avatar = body.get("avatar_url", user.avatar)
        return self._json({})

    def _upload(self, seen: Seen) -> web.Response:
        if self._token(seen) not in self.sessions:
            self._assert(seen)
        mxc = f"mxc://{SERVER_NAME}/media{next(self._numbers)}"
        self.media[mxc] = (seen.values("content-type")[0].decode(), seen.body)
        return self._json({"content_uri": mxc})

    def _download(self, seen: Seen) -> web.Response:
        self._own_token(seen, mpt=True)
        mxc = f"mxc://{'/'.join(seen.path.split('/')[-2:])}"
        if mxc not in self.media:
            raise _Refused((404, "M_NOT_FOUND"))
        media_type, octets = self.media[mxc]
        return web.Response(body=octets, headers={**CORS, "Content-Type": media_type})

    def _whoami(self, seen: Seen) -> web.Response:
        token = self._token(seen)
        if token in self.hollow:
            return web.json_response({"Err": ""}, status=500)
        if user_id := self.sessions.get(token):
            user = self.users[user_id[1:].partition(":")[0]]
            guest = {"is_guest": user.deactivated or user.was_guest} if self.flavour.tells_guests else {}
            return self._json({"user_id": user_id, "device_id": self.devices[token], **guest})
        asserted = self._assert(seen)
        user_id = asserted or f"@_login_gateway:{SERVER_NAME}"
        name = user_id[1:].partition(":")[0]
        if asserted and name not in self.users and not self.flavour.whoami_knows_all:
            raise _Refused(self.flavour.whoami_nobody)
        if not asserted and self.flavour.no_sender and name not in self.users:
            raise _Refused(self.flavour.no_sender)
        device_id = self.flavour.devices[bool(asserted)]
        return self._json({"user_id": user_id, **({"device_id": device_id} if device_id else {})})

    def _assert(self, seen: Seen) -> str:
        """Return in whose name the application service asks, "" in its own, with what that alone does already."""
        self._check_appservice(seen)
        user_id = parse_qs(urlsplit(seen.target).query).get("user_id", [""])[0]
        name = user_id[1:].partition(":")[0]
        if user_id and self.flavour.whoami_makes_users:
            self.users.setdefault(name, User())
        if user_id and self.flavour.leaves_devices:
            self.sessions[f"hidden {name}"], self.devices[f"hidden {name}"] = user_id, "appservice"
        return user_id

    def _log_out(self, seen: Seen) -> web.Response:
        if "user_id=" in seen.target:
            user_id = self._assert(seen)
            return self._end_sessions([f"hidden {user_id[1:].partition(':')[0]}"])
        token = self._own_token(seen)
        if (
            self.users.get(self.sessions[token][1:].partition(":")[0], User()).was_guest
            and not self.flavour.guests_log_out
        ):
            raise _Refused((403, "M_GUEST_ACCESS_FORBIDDEN"), "Guest access not allowed")
        return self._end_sessions([token])

    def _log_out_all(self, seen: Seen) -> web.Response:
        if "user_id=" in seen.target:
            hidden = "hidden " if self.flavour.leaves_devices else None
            return self._end_sessions([each for each in self._sessions_of(seen) if each[:7] != hidden])
        user_id = self.sessions[self._own_token(seen)]
        return self._end_sessions([token for token, owner in self.sessions.items() if owner == user_id])

    def _own_token(self, seen: Seen, *, mpt: bool = False) -> str:
        """The token of a client. Matrix Authentication Service ends no session by its personal token."""
        token = self._token(seen)
        if token not in self.sessions or (token.startswith("mpt_") and not mpt) or token in self.refused:
            raise _Refused((401, "M_UNKNOWN_TOKEN"))
        return token

    def _list_devices(self, seen: Seen) -> web.Response:
        return self._json({"devices": [{"device_id": self.devices[token]} for token in self._sessions_of(seen)]})

    def _delete_device(self, seen: Seen) -> web.Response:
        wanted = unquote(seen.path.rpartition("/")[2])
        if self.flavour.leaves_devices:
            raise _Refused((401, ""))  # user-interactive authentication
        return self._end_sessions([token for token in self._sessions_of(seen) if self.devices[token] == wanted])

    def _name_device(self, seen: Seen) -> web.Response:
        self.device_names[self.devices[self._own_token(seen, mpt=True)]] = seen.json()["display_name"]
        return self._json({})

    def _sessions_of(self, seen: Seen) -> Iterator[str]:
        """The sessions of the user that the application service names."""
        user_id = self._assert(seen)
        if user_id[1:].partition(":")[0] not in self.users:
            raise _Refused((403, "M_FORBIDDEN"))
        return (token for token, owner in self.sessions.items() if owner == user_id)

    def _end_sessions(self, tokens: list[str]) -> web.Response:
        for token in tokens:
            del self.sessions[token], self.devices[token]
        return self._json({})

    def _available(self, seen: Seen) -> web.Response:
        if self.flavour.reserved is None:
            raise _Refused((403, "M_FORBIDDEN"), "Registration has been disabled")
        name = parse_qs(urlsplit(seen.target).query)["username"][0]
        status, errcode, error = self.flavour.reserved
        if not GRAMMAR.fullmatch(name):  # whoever has it
            raise _Refused((400, "M_INVALID_USERNAME"), "Username is invalid.")
        if self.reserved.fullmatch(name) and (name not in self.users or errcode == "M_USER_IN_USE"):
            raise _Refused((status, errcode), error)
        if name in self.users or name in self.flavour.own_localparts:
            raise _Refused((400, "M_USER_IN_USE"), "Desired user ID is already taken.")
        return self._json({"available": True})

    def _software(self, seen: Seen) -> web.Response:
        said = {"name": self.flavour.name, "version": "1"}
        if seen.path == "/_matrix/client/versions":
            return self._json({"versions": ["v1.11"], "net.zemos.msc4383.server": said})
        return self._json({"server": said} if "federation" in seen.path else said)

    def _key(self, _seen: Seen) -> web.Response:
        return self._json({"server_name": SERVER_NAME})

    def _versions(self, _seen: Seen) -> web.Response:
        return self._json({"versions": ["v1.11"]})

    def _unrecognized(self, _seen: Seen) -> web.Response:
        raise _Refused((404, "M_UNRECOGNIZED"))

    @staticmethod
    def _check_appservice(seen: Seen, refusal: Refusal = (401, "M_UNKNOWN_TOKEN")) -> None:
        if seen.values("authorization") != [f"Bearer {AS_TOKEN}".encode()]:
            raise _Refused(refusal)

    @staticmethod
    def _token(seen: Seen) -> str:
        return next(iter(seen.values("authorization")), b"").decode().removeprefix("Bearer ")

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
