"""The admin API of Matrix Authentication Service (1.5 or newer), as the OAuth client of ours that it trusts.

The client's own access token (RFC 6749 4.4) is kept until shortly before it expires, and asked for once at a time.
With each of them the service says which server it is for, so that nothing is made at another one's.
"""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from gateway.errors import Refusal, Refused
from gateway.upstream.answers import MaybeMade, NothingDone
from gateway.upstream.mas_answers import NAME, attributes, expect, failed, id_of, is_token, unclear
from gateway.upstream.pool import NotConnected, Pool, PoolSettings, Reply
from gateway.upstream.sessions import SessionSettings

_SCOPE: Final = "urn:mas:admin"
# Seconds before its end at which a token is not used any more; the service gives them 300 s.
_MARGIN: Final = 30
_PAGE: Final = 100
# Each kind of session, by what it is a user's, and how one ends. What a browser has comes first: it makes others.
_KINDS_OF_SESSIONS: Final = (
    ("user-sessions", "user", "finish"),
    ("oauth2-sessions", "user", "finish"),
    ("compat-sessions", "user", "finish"),
    ("personal-sessions", "actor_user", "revoke"),
)
# Seconds between the tries to open a new user's session: it tells the homeserver of the user beside its answer.
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
# Seconds between the looks for a user whom somebody else makes at the same moment; 0.004 are usual in all.
_APPEARS: Final = (0.0, 0.05, 0.15, 0.3, 0.5)
_HINT_CLIENT: Final = (
    "mas_client_id and mas_client_secret must be those of a client with client_auth_method: client_secret_basic, and"
    " the policy must name it in admin_clients"
)


@dataclass(frozen=True, slots=True)
class MasUser:
    """A user as the service knows it."""

    id: str
    locked: bool
    deactivated: bool


class MasAdmin:
    """Calls the admin API; times in seconds. Everything raises `Refused` where the service can't or won't."""

    def __init__(
        self, settings: SessionSettings, client_secret: str, server_name: str, *, connect_timeout: float = 5
    ) -> None:
        self._api = _pool(settings.mas_url, connect_timeout)
        self._oauth = _pool(settings.mas_oauth_url, connect_timeout) if settings.mas_oauth_url else self._api
        # Not form-encoded first, as RFC 6749 2.3.1 has it: the service does not decode them.
        self._credentials = base64.b64encode(f"{settings.mas_client_id}:{client_secret}".encode())
        self._server_name = server_name
        self._token = ""
        self._good_until = 0.0
        self._renewal: asyncio.Future[None] | None = None

    async def close(self) -> None:
        """End the connections."""
        await self._api.close()
        await self._oauth.close()

    async def find_user(self, localpart: str) -> MasUser | None:
        """Return a user, None when there is none with exactly this name."""
        doing = "look for the user"
        reply = await self.call("GET", f"users/by-username/{quote(localpart, safe='')}")
        if reply.status == 404 and "errors" in reply.json():
            return None
        expect(reply, doing, 200)
        said = attributes(reply)
        if said.get("username") != localpart:
            return None  # found whatever the case, and another user on the homeserver
        locked, deactivated = (said.get(f"{state}_at") is not None for state in ("locked", "deactivated"))
        return MasUser(id_of(reply, doing), locked, deactivated)

    async def add_user(self, localpart: str, *, known: bool = False) -> bool:
        """Make a user, False when the name is taken; raises `MaybeMade` where that is not known.

        `known`: the homeserver may have the user already, without the service.
        """
        doing = "register the user"
        body = {"username": localpart, **({"skip_homeserver_check": True} if known else {})}
        reply = await self.call("POST", "users", body, repeat=False)
        if reply.status == 400:
            raise Refused(Refusal.BAD_LOCALPART, "The homeserver does not accept this user name")
        # Of two at once the service fails for one, or says that the homeserver has reserved the name.
        if reply.status >= 500 and not await self.appears(localpart):
            failure = failed(reply, doing)
            raise MaybeMade(failure.refusal, reason=failure.reason)
        if reply.status < 500:
            expect(reply, doing, 200, 201, 409)
        return reply.status < 400

    async def appears(self, localpart: str) -> bool:
        """Say whether there is such a user, or one is there within a second."""
        for pause in _APPEARS:
            await asyncio.sleep(pause)
            if await self.find_user(localpart) is not None:
                return True
        return False

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, repeat: bool = True) -> Reply:
        """Make a call below `/api/admin/v1/`; `repeat`: it may reach the service twice without harm."""
        token = await self._access_token()
        reply = await self._call(token, method, path, body, repeat=repeat)
        if reply.status != 401:
            return reply
        # The service was set up anew, or somebody ended our session: nothing was done, so it can be asked again.
        if token == self._token:
            self._good_until = 0.0
        reply = await self._call(await self._access_token(), method, path, body, repeat=repeat)
        if reply.status == 401:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY, reason=f"{NAME} does not accept its own token; {_HINT_CLIENT}"
            )
        return reply

    async def open_session(self, user: MasUser, name: str, device_id: str, expires_in: int) -> Reply:
        """Open a personal session on a device; the answer is 201, or 404 or 410 for a user who can't have one."""
        body: dict[str, Any] = {
            "actor_user_id": user.id,
            "human_name": name,
            "scope": f"urn:matrix:client:api:* urn:matrix:client:device:{device_id}",
        }
        if expires_in:
            body["expires_in"] = expires_in
        # Not twice: the service may have opened a session that nobody would know of. But what it answers with an
        # error of its own it has taken back, as for a new user of whom the homeserver has not heard yet.
        pauses = iter(_PAUSES)
        while True:
            reply = await self.call("POST", "personal-sessions", body, repeat=False)
            if reply.status != 500 or "errors" not in reply.json() or (pause := next(pauses, None)) is None:
                break
            await asyncio.sleep(pause)
        if reply.status == 500 and "errors" in reply.json():
            failure = failed(reply, "open the session")
            raise NothingDone(failure.refusal, reason=failure.reason)
        expect(reply, "open the session", 201, 404, 410)
        return reply

    async def revoke(self, session_id: str) -> bool:
        """End a personal session; False when it had ended already."""
        return await self._end(f"personal-sessions/{quote(session_id, safe='')}/revoke")

    async def end_all(self, localpart: str) -> bool:
        """End every session of the user of that name; False when there is none."""
        user = await self.find_user(localpart)
        if user is not None:
            await self.end_sessions(user)
        return user is not None

    async def end_sessions(self, user: MasUser) -> None:
        """End every session of a user, of whichever kind."""
        for kind, owner, ending in _KINDS_OF_SESSIONS:
            listed = f"{kind}?filter[{owner}]={user.id}&filter[status]=active&page[first]={_PAGE}"
            while ids := await self._listed(listed):
                if not any([await self._end(f"{kind}/{quote(session_id, safe='')}/{ending}") for session_id in ids]):
                    raise Refused(
                        Refusal.HOMESERVER_REFUSES_GATEWAY, reason=f"{NAME} shows sessions that it does not end"
                    )

    async def _end(self, path: str) -> bool:
        """End a session; False when it had ended already."""
        reply = await self.call("POST", path)
        expect(reply, "end the session", 200, 400, 404, 409)
        return reply.status == 200

    async def _listed(self, path: str) -> list[str]:
        reply = await self.call("GET", path)
        expect(reply, "list the sessions", 200)
        data = reply.json().get("data")
        if not isinstance(data, list):
            raise unclear("list the sessions")
        return [entry["id"] for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    async def _call(self, token: str, method: str, path: str, body: dict[str, Any] | None, *, repeat: bool) -> Reply:
        fields = [self._api.host, (b"Authorization", f"Bearer {token}".encode())]
        octets = b""
        if body is not None:
            fields.append((b"Content-Type", b"application/json"))
            octets = json.dumps(body).encode()
        try:
            return await self._api.call(method, f"/api/admin/v1/{path}", fields, octets, repeat=repeat)
        except NotConnected:
            raise
        except Refused as refused:
            if repeat:
                raise
            raise MaybeMade(refused.refusal, reason=refused.reason) from refused

    async def _access_token(self) -> str:
        """Return a token that is good for a while; who comes while one is asked for shares what comes of it."""
        loop = asyncio.get_running_loop()
        while loop.time() >= self._good_until:
            renewal = self._renewal
            if renewal is None:
                await self._renew(loop)
                continue
            await asyncio.wait((renewal,))
            if not renewal.cancelled():
                renewal.result()
        return self._token

    async def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._renewal = renewal = loop.create_future()
        try:
            token, lifetime = await self._ask_for_token()
            await self._compare_server_names(token)
            self._token = token
            self._good_until = loop.time() + lifetime - min(_MARGIN, lifetime / 2)
            renewal.set_result(None)
        except Refused as refused:
            renewal.set_exception(refused)
            renewal.exception()  # looked at, or asyncio logs it as lost where nobody waits
            raise
        finally:
            renewal.cancel()  # if it broke off: then somebody else asks
            self._renewal = None

    async def _compare_server_names(self, token: str) -> None:
        """Refuse the service of another server, before anything is made there."""
        doing = "ask for its server name"
        reply = await self._call(token, "GET", "site-config", None, repeat=True)
        if reply.status == 404:
            return  # a version that does not say
        expect(reply, doing, 200)
        theirs = reply.json().get("server_name")
        if not isinstance(theirs, str):
            raise unclear(doing)
        if theirs != self._server_name:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"{NAME} at mas_url is that of {theirs}, and server_name is {self._server_name}: set"
                f" mas_url to that of {self._server_name}, or [homeserver] server_name to {theirs}",
            )

    async def _ask_for_token(self) -> tuple[str, float]:
        fields = [
            self._oauth.host,
            (b"Authorization", b"Basic " + self._credentials),
            (b"Content-Type", b"application/x-www-form-urlencoded"),
        ]
        form = urlencode({"grant_type": "client_credentials", "scope": _SCOPE}).encode()
        reply = await self._oauth.call("POST", "/oauth2/token", fields, form)
        answer = reply.json()
        if reply.status != 200:
            hint = f"{answer.get('error')}; {_HINT_CLIENT}"
            if reply.status == 404:
                hint = "set mas_oauth_url to where it has /oauth2/token"
            raise failed(reply, "get a token", hint)
        token, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not is_token(token):
            raise unclear("get a token")
        return token, float(lifetime) if isinstance(lifetime, int) and lifetime > 0 else 2 * _MARGIN


def _pool(url: str | None, connect_timeout: float) -> Pool:
    return Pool(PoolSettings(url=url or "", connect_timeout=connect_timeout), name=NAME)
