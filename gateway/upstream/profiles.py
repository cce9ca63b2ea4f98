"""The profiles of users: display name and avatar, set by the application service.

It speaks in the user's name, and in its own where each such call would leave the user a device.
"""

from typing import Any
from urllib.parse import quote

from gateway.core.avatars import is_mxc
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import classified
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of


async def set_display_name(homeserver: Homeserver, user_id: str, name: str) -> None:
    """Set the display name of a user."""
    await _set(homeserver, user_id, "displayname", {"displayname": name})


async def set_avatar(homeserver: Homeserver, user_id: str, mxc: str) -> None:
    """Set the avatar of a user to content that the media repository has (`mxc://`)."""
    await _set(homeserver, user_id, "avatar_url", {"avatar_url": mxc})


async def upload(homeserver: Homeserver, user_id: str, media_type: str, octets: bytes) -> str:
    """Put a user's content into the media repository and return its name (`mxc://`)."""
    target = f"/_matrix/media/v3/upload{await _asserted(homeserver, user_id)}"
    reply = await homeserver.upload(target, media_type, octets)
    if reply.status != 200:
        raise classified(reply, "upload the avatar")
    mxc = reply.json().get("content_uri")
    if not isinstance(mxc, str) or not is_mxc(mxc):
        raise Refused(Refusal.HOMESERVER_UNREACHABLE, reason="the homeserver took the avatar but named nothing")
    return mxc


async def _set(homeserver: Homeserver, user_id: str, key: str, body: dict[str, Any]) -> None:
    asserted = await _asserted(homeserver, user_id)
    target = f"/_matrix/client/v3/profile/{quote(user_id, safe='')}/{key}{asserted}"
    reply = await homeserver.call("PUT", target, body)
    if reply.status != 200:
        raise classified(reply, f"set the {key}")


async def _asserted(homeserver: Homeserver, user_id: str) -> str:
    leaves_devices = (await kind_of(homeserver)).leaves_devices
    return "" if leaves_devices else f"?user_id={quote(user_id, safe='')}"
