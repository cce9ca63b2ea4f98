"""The live homeserver: whether it answers, which it is, and whether it takes us for what we are."""

import email.utils
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.core.homeserver_kinds import HomeserverKind, Probe, kind_named
from gateway.core.identity import SENDER_LOCALPART
from gateway.doctor import Finding
from gateway.errors import Refused
from gateway.upstream.answers import is_unknown_user
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import server_name, software
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import SessionMethod
from gateway.upstream.sessions.jwt import JwtSessions, own_jwt_logins

# A difference of clocks that well-kept machines do not have, in seconds.
_NOTABLE_DIFFERENCE: Final = 5
_REGISTER: Final = (
    "put the output of `matrix-login-gateway registration` into the homeserver's registration file and restart it"
)


async def examine_homeserver(
    homeserver: Homeserver,
    leeway: int,
    now: Callable[[], float],
    method: SessionMethod | None = None,
    *,
    denies: bool = False,
) -> list[Finding]:
    """Return what the homeserver shows; the first alone where nothing or something else answers.

    `now` gives seconds since the epoch, `leeway` is the smallest that is configured, in seconds. `method` is the way
    to sessions, None for the application service login. `denies`: the configuration has names that may not log in.
    """
    name = "reachable"
    try:
        reply = await homeserver.versions()
        moment = now()
        if reply.status != 200 or not isinstance(reply.json().get("versions"), list):
            says = f"what answers at [homeserver] url is no homeserver: {reply.told} to /_matrix/client/versions"
            return [Finding(name, "fail", says, "set [homeserver] url to the address of the homeserver itself")]
        return [
            Finding(name, "pass", "the homeserver answers"),
            _clock(reply, leeway, moment),
            *await _Examination(homeserver, method, denies, *await software(homeserver)).findings(),
        ]
    except Refused as refused:
        mend = "start the homeserver, look at its log, or set [homeserver] url to where it listens"
        return [Finding(name, "fail", refused.reason, mend)]


def _limited(name: str, reply: Reply) -> Finding:
    mend = (
        "its limits hold the gateway back: switch them off, as the manual's page of the homeserver says, and repeat"
    )
    return Finding(name, "warn", f"can't be seen: {reply.told} to a login", mend)


def _clock(reply: Reply, leeway: int, moment: float) -> Finding:
    name = "clock"
    written = next((value for field, value in reply.fields if field.lower() == b"date"), b"").decode("latin-1")
    try:
        theirs = email.utils.parsedate_to_datetime(written).timestamp()
    except (ValueError, OverflowError):
        return Finding(name, "warn", "the homeserver does not say what time it is", "compare the clocks yourself")
    difference = abs(theirs - moment)
    says = f"this machine and the homeserver differ by {difference:.0f} s; leeway is {leeway} s"
    mend = "set both clocks by NTP: `timedatectl` shows whether one is not synchronized"
    if difference > max(leeway, _NOTABLE_DIFFERENCE):
        return Finding(name, "fail", says, mend)
    if difference > _NOTABLE_DIFFERENCE:
        return Finding(name, "warn", says, mend)
    return Finding(name, "pass", says)


@dataclass(frozen=True, slots=True)
class _Examination:
    """The questions to a homeserver that answers."""

    homeserver: Homeserver
    method: SessionMethod | None
    denies: bool
    software: str
    version: str

    @property
    def _kind(self) -> HomeserverKind:
        return kind_named(self.software)

    async def findings(self) -> list[Finding]:
        """Return what each question showed; raises `Refused` where the homeserver goes away."""
        found = [self._known()]
        whoami = await self.homeserver.call("GET", "/_matrix/client/v3/account/whoami")
        found += [await self._server_name(), await self._paths()]
        if self.homeserver.as_token:
            found.append(await self._as_token(whoami))
        accepted = found[-1].verdict != "fail"
        if self.method is not None:
            found.append(await self._session_method(self.method))
            if found[-1].verdict == "fail":
                return found  # where MAS is away, so is GET /login
        else:
            found.append(await self._login())
            found += [await self._namespace()] if accepted else []
        return [*found, *self._bridges(), *self._deactivated(), *await self._own_jwt_login()]

    async def _session_method(self, method: SessionMethod) -> Finding:
        name = "session method"
        try:
            misfit = await method.misfit()
        except Refused as refused:
            return Finding(name, "fail", f"can't be seen: {refused.reason}", "start it, and repeat")
        if misfit:
            return Finding(name, "fail", misfit, "see [session], and what the README says of its method")
        return Finding(name, "pass", "sessions can be opened, as far as can be seen without one")

    def _known(self) -> Finding:
        if self.software:
            return Finding("software", "pass", f"{self.software} {self.version}".strip())
        mend = "nothing to do; it is treated with the care that an unknown one needs"
        return Finding("software", "warn", "the homeserver does not say which software it is", mend)

    async def _server_name(self) -> Finding:
        name = "server name"
        ours = self.homeserver.server_name
        # tuwunel with federation off, before the sender has an account: only a login by the whole id of nobody tells.
        theirs = await server_name(self.homeserver) or (ours if await self._has(ours) else "")
        if not theirs:
            mend = "mend that first; else see that server_name is the homeserver's own"
            return Finding(name, "warn", "can't be seen before the as_token is accepted", mend)
        if theirs != ours:
            says = f"the homeserver is {theirs}, and server_name is {ours}"
            return Finding(name, "fail", says, f'set [homeserver] server_name = "{theirs}", or url to that of {ours}')
        return Finding(name, "pass", ours)

    async def _has(self, server: str) -> bool:
        if self._kind.probe is not Probe.UNKNOWN or not self.homeserver.as_token:
            return False
        return self._is_inside(await self.homeserver.log_in(f"@{self._probe('')}:{server}", {}))

    async def _paths(self) -> Finding:
        """Compare the answers for a user id with a slash in it, percent-encoded and not."""
        name = "paths"
        user_id = f"@doctor{secrets.token_hex(8)}/x:{self.homeserver.server_name}"
        target = "/_matrix/client/v3/profile/"
        encoded = await self.homeserver.call("GET", target + quote(user_id, safe=""))
        decoded = await self.homeserver.call("GET", target + quote(user_id, safe="/"))
        if encoded.status in {401, 403, 429} or encoded.status >= 500:
            return Finding(
                name, "warn", f"can't be seen: {encoded.told} to a question for a profile", "mend that first"
            )
        mend = "set url to the homeserver's own address, or let the proxy keep paths (nginx: no URI in proxy_pass)"
        if not encoded.errcode and encoded.status != 200:
            says = f"what is between answers {encoded.status} by itself to a path with %2F in it"
            return Finding(name, "fail", says, mend)
        if (encoded.status, encoded.body) != (decoded.status, decoded.body):
            return Finding(name, "pass", "percent-encoded paths reach the homeserver as they are")
        says = "%2F in a path is answered as a slash: something between decodes paths"
        if self._kind.keeps_paths:
            return Finding(name, "fail", says, mend)
        return Finding(name, "warn", f"{says}, or the homeserver does so itself", mend)

    async def _as_token(self, whoami: Reply) -> Finding:
        name = "as_token"
        user_id = whoami.json().get("user_id")
        if (whoami.status, whoami.errcode) == (404, "M_NOT_FOUND"):  # tuwunel, before the sender has an account
            return Finding(name, "pass", "accepted")
        if whoami.status != 200:
            says = f"the homeserver does not accept it: {whoami.told}"
            return Finding(name, "fail", says, _REGISTER)
        if whoami.json().get("device_id") is not None:
            return await self._as_token_with_device(name, str(user_id))
        return Finding(name, "pass", f"accepted, as {user_id}")

    async def _as_token_with_device(self, name: str, user_id: str) -> Finding:
        """Log nobody in: Dendrite and Palpo say of an application service too that it has a device."""
        if self._kind.probe is not Probe.NONE:
            reply = await self.homeserver.log_in(self._probe(""), {})
            if reply.status == 429:
                return _limited(name, reply)
            if self._is_inside(reply) or reply.errcode == "M_EXCLUSIVE" or "namespace" in reply.error:
                return Finding(name, "pass", f"accepted, as {user_id}")
        elif user_id == self.homeserver.user_id(SENDER_LOCALPART):
            says = f"it is that of {user_id}, who has a device: some homeservers give application services one"
            return Finding(name, "warn", says, f"try one login; if it is refused, {_REGISTER}")
        says = f"it is the access token of a device of {user_id}, not of an application service"
        return Finding(name, "fail", says, _REGISTER)

    async def _login(self) -> Finding:
        name = "appservice login"
        flows, misfit = await self.homeserver.flows()
        if misfit:
            return Finding(name, "fail", misfit, 'set [session] method = "mas", or give it back its login')
        if "m.login.application_service" in flows:
            return Finding(name, "pass", "offered")
        says = "m.login.application_service is not among the flows of GET /login"
        return Finding(name, "warn", says, "try one login: some homeservers offer it without listing it")

    def _bridges(self) -> list[Finding]:
        if self._kind.tells_ghosts:
            return []
        says = f"users of bridges whom {self.software or 'the homeserver'} has already look like anybody, and log in"
        if self.denies:
            return [Finding("bridges", "pass", f"{says}, but for the names in [identity] deny")]
        mend = 'put the names of each bridge into [identity] deny, such as "^telegram_" and "^telegrambot$"'
        return [Finding("bridges", "warn", says, mend)]

    def _deactivated(self) -> list[Finding]:
        if not self._kind.hides_deactivated:
            return []
        says = f"users who are deactivated at {self.software} log in and work, and nothing tells who is one"
        mend = "run `matrix-login-gateway users lock NAME` whenever you deactivate somebody"
        return [Finding("deactivated", "warn", says, mend)]

    async def _own_jwt_login(self) -> list[Finding]:
        """Warn of a JWT login of the homeserver's own: who may not log in here, may there, past the gateway."""
        if isinstance(self.method, JwtSessions):
            return []  # which needs it, with a secret that signs no identity token
        own = await own_jwt_logins(self.homeserver, self._kind)
        if not own:
            return []
        says = (
            f"the homeserver takes {' and '.join(own)} itself: past the gateway, a token of one of its keys opens a"
            " session for users whom the gateway has locked or denies"
        )
        mend = (
            "take jwt_config out of Synapse's homeserver.yaml, [jwt] out of palpo.toml, or [global.jwt] out of"
            " tuwunel.toml, and restart it"
        )
        return [Finding("jwt login", "warn", says, mend)]

    async def _namespace(self) -> Finding:
        name = "namespace"
        if self._kind.probe is Probe.NONE:
            says = f"can't be asked of {self.software or 'an unknown software'} without making an account"
            mend = f"see that the regex in the registration is '^@.*:{self.homeserver.server_name}$', dots escaped"
            return Finding(name, "warn", says, mend)
        outside = []
        for localpart in (self._probe(""), self._probe("._=/+-")):
            reply = await self.homeserver.log_in(localpart, {})
            if self._is_inside(reply):
                continue
            if reply.status == 429:
                return _limited(name, reply)
            if reply.status == 403 or reply.errcode == "M_EXCLUSIVE":
                outside.append(localpart)
            else:
                return Finding(name, "warn", f"can't be seen: {reply.told} to a login", "see the homeserver's log")
        if outside:
            says = f"the registration does not cover every user: {' and '.join(outside)} would be outside"
            return Finding(name, "fail", says, _REGISTER)
        return Finding(name, "pass", "covers every user of the server, as far as two names show")

    def _probe(self, characters: str) -> str:
        """Return a localpart that nobody has, or that nobody can have."""
        return f"{'Doctor' if self._kind.probe is Probe.INVALID else 'doctor'}{characters}{secrets.token_hex(8)}"

    def _is_inside(self, reply: Reply) -> bool:
        if self._kind.probe is Probe.INVALID:
            return reply.errcode == "M_INVALID_USERNAME"
        return is_unknown_user(reply, self._kind)
