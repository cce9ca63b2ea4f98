"""Which homeserver it is: its software and its name, asked once, and never with what could make anything."""

import secrets
from typing import Any

from gateway.core.homeserver_kinds import HomeserverKind, Probe, kind_named
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import classified, is_unknown_user
from gateway.upstream.homeserver import Homeserver


async def kind_of(homeserver: Homeserver) -> HomeserverKind:
    """Return what kind of homeserver it is, asked once; raises `Refused` where it is another server than ours."""
    known = homeserver.known
    if known.kind is None:
        name, _ = await software(homeserver)
        kind, theirs = kind_named(name), await server_name(homeserver)
        told = f"is {theirs}" if theirs else f"is not {homeserver.server_name}"
        if theirs != homeserver.server_name and (theirs or not await _may_be_ours(homeserver, kind)):
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"the homeserver {told}: server_name must be the homeserver's own",
            )
        known.kind = kind
    return known.kind


async def _may_be_ours(homeserver: Homeserver, kind: HomeserverKind) -> bool:
    """Say whether a homeserver that does not say its name may have ours, by the login of nobody's whole id.

    So tuwunel is with federation off, before the sender of the registration has an account.
    """
    if kind.probe is not Probe.UNKNOWN or not homeserver.as_token:
        return True
    reply = await homeserver.log_in(homeserver.user_id(f"nobody-{secrets.token_hex(16)}"), {})
    return is_unknown_user(reply, kind) or reply.errcode != "M_UNKNOWN"


async def software(homeserver: Homeserver) -> tuple[str, str]:
    """Return name and version of the software, "" where it does not say."""
    for target, member in (
        ("/_matrix/federation/v1/version", "server"),
        ("/_matrix/client/versions", "net.zemos.msc4383.server"),  # Palpo's
        ("/_tuwunel/server_version", ""),  # the first is refused there while federation is off
    ):
        reply = await homeserver.ask(target)
        if reply.status >= 500:
            raise classified(reply, "ask for its software")
        said: Any = reply.json().get(member) if member else reply.json()
        if isinstance(said, dict) and isinstance(name := said.get("name"), str) and name:
            version = said.get("version")
            return name, version if isinstance(version, str) else ""
    return "", ""


async def server_name(homeserver: Homeserver) -> str:
    """Return the name that the homeserver says it has, "" where it says none."""
    told = (await homeserver.ask("/_matrix/key/v2/server")).json().get("server_name")
    if not isinstance(told, str) and homeserver.as_token:  # federation is off
        user_id = (await homeserver.call("GET", "/_matrix/client/v3/account/whoami")).json().get("user_id")
        told = user_id.partition(":")[2] if isinstance(user_id, str) else ""
    return told if isinstance(told, str) else ""
