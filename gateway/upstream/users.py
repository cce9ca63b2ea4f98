"""The users of the homeserver: who exists, which names are taken, and how an account is made.

The rule of this file: no question makes an account or leaves a trace on any homeserver, and none carries the
`?user_id=` of somebody who may not exist to one that would make that user.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from gateway.core.headers import Field
from gateway.core.homeserver_kinds import Availability, Existence, HomeserverKind, availability
from gateway.core.identity import is_grammatical
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import HomeserverAnswered, MaybeMade, classified, is_unknown_user
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.pool import NotConnected, Reply

# How long a failed registration may be looked into, in seconds.
_SECOND_LOOK: Final = 10
_ASKING: Final = "ask for the user"
# Nobody's name, by which the log of the homeserver says who asks.
_PROBE: Final = "_login_gateway_probe"


async def exists(homeserver: Homeserver, user_id: str) -> bool:
    """Say whether the homeserver has this user."""
    known, kind = homeserver.known, await kind_of(homeserver)
    if known.question is None:
        known.question = await _true_question(homeserver, kind)
    found = await _QUESTIONS[known.question](homeserver, user_id)
    if not found and kind.forgets_users and homeserver.as_token:
        await _check_as_token(homeserver)
    return found


async def _true_question(homeserver: Homeserver, kind: HomeserverKind) -> Existence:
    """Return the first question that says of a name which can't exist that it does not."""
    nobody = homeserver.user_id(f"nobody-{secrets.token_hex(16)}")
    failure: Refused | None = None
    for question in kind.existence:
        try:
            if not await _QUESTIONS[question](homeserver, nobody):
                return question
        except Refused as refused:
            if refused.refusal is not Refusal.HOMESERVER_REFUSES_GATEWAY:
                raise
            failure = failure or refused
    raise failure or Refused(
        Refusal.HOMESERVER_REFUSES_GATEWAY,
        reason="the homeserver does not tell who exists: it says so of a name that nobody has",
    )


async def _has_profile(homeserver: Homeserver, user_id: str) -> bool:
    profile = await _profile(homeserver, user_id)
    if profile.status in {200, 404}:
        return profile.status == 200
    raise classified(profile, _ASKING)


async def _profile(homeserver: Homeserver, user_id: str) -> Reply:
    return await homeserver.call("GET", f"/_matrix/client/v3/profile/{quote(user_id, safe='')}")


async def _may_be_asserted(homeserver: Homeserver, user_id: str) -> bool:
    # First, for a user outside our namespace; Synapse answers 404 also for a user whose profile is empty.
    profile = await _profile(homeserver, user_id)
    if profile.status == 200:
        return True
    if profile.status >= 500:
        raise classified(profile, _ASKING)
    if not homeserver.as_token and profile.status == 404:
        return False
    whoami = await homeserver.call("GET", f"/_matrix/client/v3/account/whoami?user_id={quote(user_id, safe='')}")
    if whoami.status == 200:
        return True
    if whoami.errcode == "M_FORBIDDEN":
        return False
    raise classified(whoami, _ASKING)


async def _is_taken(homeserver: Homeserver, user_id: str) -> bool:
    localpart = user_id.removeprefix("@").partition(":")[0]
    if not is_grammatical(localpart):
        return await _logs_in(homeserver, user_id, localpart)
    reply, found = await _available(homeserver, localpart)
    if found is Availability.UNTOLD:
        raise classified(reply, _ASKING)
    return found is Availability.TAKEN


async def _logs_in(homeserver: Homeserver, user_id: str, localpart: str) -> bool:
    """Say whether a user is there by a session, which is ended: no such name is available, whoever has it."""
    if localpart != localpart.lower():
        return False  # it would be another's, where names are folded
    if not homeserver.as_token:
        reason = f"whether {user_id} is there can be asked by an application service alone; set [session] as_token"
        raise Refused(Refusal.HOMESERVER_REFUSES_GATEWAY, reason=reason)
    reply = await homeserver.log_in(localpart, {})
    if reply.status != 200:
        if is_unknown_user(reply, await kind_of(homeserver)):
            return False
        raise classified(reply, _ASKING)
    await _end_session(homeserver, str(reply.json().get("access_token")))
    return reply.json().get("user_id") == user_id


async def _end_session(homeserver: Homeserver, token: str) -> None:
    ended = await homeserver.as_user("POST", "/_matrix/client/v3/logout", token)
    if ended.status == 500:
        # So Palpo says where two sessions of a user end at once, though it has ended them.
        ended = await homeserver.as_user("POST", "/_matrix/client/v3/logout", token)
        if ended.status == 401:
            return
    if ended.status != 200:  # it may be nobody's, too
        raise classified(ended, "end the session that asks for the user")


async def _available(homeserver: Homeserver, localpart: str) -> tuple[Reply, Availability]:
    reply = await homeserver.ask(f"/_matrix/client/v3/register/available?username={quote(localpart, safe='')}")
    if reply.status == 429 or reply.status >= 500:
        raise classified(reply, "ask for the name")
    return reply, availability(reply.status, reply.errcode, reply.error)


_QUESTIONS: Final[dict[Existence, Callable[[Homeserver, str], Awaitable[bool]]]] = {
    Existence.PROFILE: _has_profile,
    Existence.WHOAMI: _may_be_asserted,
    Existence.AVAILABLE: _is_taken,
}


async def check_ready(homeserver: Homeserver, *, needs_as_token: bool = True) -> None:
    """Ask whether the homeserver can look for a user and knows the `as_token`, as logins need; no limit counts it.

    `/versions` tells neither. Without its database Synapse still knows the token, and Dendrite says that there is no
    such user. Raises `Refused` or `HomeserverAnswered`.
    """
    profile = await _profile(homeserver, homeserver.user_id(_PROBE))
    failure = classified(profile, _ASKING)
    if isinstance(failure, Refused) and failure.refusal is Refusal.HOMESERVER_UNREACHABLE:
        raise failure
    if needs_as_token:
        await _check_as_token(homeserver)


async def _check_as_token(homeserver: Homeserver) -> None:
    whoami = await homeserver.call("GET", "/_matrix/client/v3/account/whoami")
    # tuwunel says M_NOT_FOUND until the sender of the registration has an account.
    if whoami.status != 200 and whoami.errcode != "M_NOT_FOUND":
        raise classified(whoami, "use the as_token")


async def check_name(homeserver: Homeserver, localpart: str, *, exists: bool) -> None:
    """Refuse a name that somebody is about to get who did not have it, where it is not for people.

    It may be the homeserver's own, or another application service's, which not every homeserver looks at when the
    name is registered, and none when somebody logs in by it. `exists`: there is such a user, who is not registered.
    """
    kind = await kind_of(homeserver)
    check_not_own(kind, localpart)
    if len(homeserver.user_id(localpart).encode()) > kind.max_user_id_bytes:
        detail = f"The homeserver takes no user id of more than {kind.max_user_id_bytes} bytes"
        raise Refused(Refusal.BAD_LOCALPART, detail)
    if kind.checks_names:
        reply, found = await _available(homeserver, localpart)
        if found is Availability.RESERVED:
            raise _reserved(localpart, reply)
    elif exists and homeserver.as_token:
        reply = await _ask_to_register(homeserver, localpart, ())  # which makes nobody who is there
        if _is_reserved(reply):
            raise _reserved(localpart, reply)


def _is_reserved(reply: Reply) -> bool:
    """Say whether another application service has the name for itself; else it is outside our own namespace."""
    return reply.errcode == "M_EXCLUSIVE" and "reserved" in reply.error


def _reserved(localpart: str, reply: Reply) -> Refused:
    detail = reply.error or "The user name is reserved by an application service"
    return Refused(Refusal.RESERVED_LOCALPART, detail, reason=f"{localpart!r} is reserved on the homeserver")


def check_not_own(kind: HomeserverKind, localpart: str) -> None:
    """Refuse the accounts of the homeserver itself, which are more than a person's."""
    if localpart in kind.own_localparts:
        detail = "The user name is the homeserver's own"
        raise Refused(Refusal.RESERVED_LOCALPART, detail, reason=f"{kind.name} has {localpart!r} for itself")


async def is_of_user(homeserver: Homeserver, localpart: str, session: Reply) -> bool:
    """Say whether a session that was opened is of a user who exists; raises `Refused` for one who is deactivated.

    Dendrite opens sessions for nobody, whose every use is a 500. tuwunel opens them for users who are deactivated,
    and says of these that they are guests.
    """
    token = str(session.json().get("access_token"))
    whoami = await homeserver.as_user("GET", "/_matrix/client/v3/account/whoami", token)
    if whoami.status == 200:
        if whoami.json().get("is_guest") is True:
            await _end_guests(homeserver, localpart, token, session)
            raise Refused(Refusal.ACCOUNT_DEACTIVATED, reason="the homeserver takes the account for a guest's")
        return True
    if not await exists(homeserver, homeserver.user_id(localpart)):
        return False
    if whoami.errcode != "M_UNKNOWN_TOKEN":
        raise classified(whoami, "use the session")
    return True  # another login of this device, by another gateway, has ended it meanwhile


async def _end_guests(homeserver: Homeserver, localpart: str, token: str, session: Reply) -> None:
    ended = await homeserver.as_user("POST", "/_matrix/client/v3/logout", token)
    if ended.status != 200 and homeserver.as_token:  # Synapse lets no guest log out
        device_id = quote(str(session.json().get("device_id")), safe="")
        user_id = quote(homeserver.user_id(localpart), safe="")
        await homeserver.call("DELETE", f"/_matrix/client/v3/devices/{device_id}?user_id={user_id}", {})


async def register(homeserver: Homeserver, localpart: str, client: tuple[Field, ...] = ()) -> bool:
    """Make the account, False when it is there already; may be repeated. `client` are fields that say for whom.

    Raises `MaybeMade`; after any other exception the account was not made.
    """
    try:
        reply = await _ask_to_register(homeserver, localpart, client)
    except NotConnected:
        raise
    except Refused as refused:
        raise MaybeMade(refused.refusal, reason=refused.reason) from refused
    user_id = homeserver.user_id(localpart)
    if reply.status == 200 and reply.json().get("user_id") != user_id:
        raise MaybeMade(
            Refusal.HOMESERVER_REFUSES_GATEWAY,
            reason=f"the account made is not {user_id}: server_name must be the homeserver's own",
        )
    if reply.status == 200 or reply.errcode == "M_USER_IN_USE":
        return reply.status == 200
    if _is_reserved(reply):
        raise _reserved(localpart, reply)
    meant = classified(reply, "register the user")
    if not isinstance(meant, Refused) or meant.refusal is not Refusal.HOMESERVER_UNREACHABLE:
        raise meant
    if await _surely_lacks(homeserver, user_id, reply):
        raise meant
    raise MaybeMade(meant.refusal, reason=meant.reason)


async def _ask_to_register(homeserver: Homeserver, localpart: str, client: tuple[Field, ...]) -> Reply:
    return await homeserver.call(
        "POST",
        # Palpo lets an application service past `allow_registration = false` only with this parameter.
        "/_matrix/client/v3/register?from_appservice=true",
        {
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": True,
            # Without a password tuwunel and Conduit take the account for a guest's; nobody ever learns it.
            "password": secrets.token_urlsafe(32),
        },
        client,
        repeat=False,  # or "in use" could be the answer to what the first sending made
    )


async def _surely_lacks(homeserver: Homeserver, user_id: str, failure: Reply) -> bool:
    """Say whether a registration that failed so made no account, nor will make it yet."""
    # 502 and 504 come from a proxy or a worker between, and the registration may still go on.
    if failure.status != 500 or not failure.errcode:
        return False
    try:
        async with asyncio.timeout(_SECOND_LOOK):
            return not await exists(homeserver, user_id)
    except (Refused, HomeserverAnswered, TimeoutError):
        return False
