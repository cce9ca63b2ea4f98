"""The sessions of a user, ended by the application service in the user's name ('Identity assertion').

No client's token is needed: the homeserver ends them all, or device by device where it can't (MSC4190 lets an
application service do so without the user's password).
"""

from contextlib import suppress
from urllib.parse import quote

from gateway.errors import Refusal, Refused
from gateway.upstream.answers import HomeserverAnswered, classified
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.pool import Reply
from gateway.upstream.users import exists


async def end_sessions(homeserver: Homeserver, user_id: str) -> bool:
    """End every session of a user; False when the homeserver has no such user.

    Raises `Refused` or `HomeserverAnswered` when a session may go on.
    """
    # First, because Palpo makes the user for whom an application service asks anything.
    with suppress(HomeserverAnswered):  # the user is there, and locked there too
        if not await exists(homeserver, user_id):
            return False
    asserted = f"?user_id={quote(user_id, safe='')}"
    reply = await homeserver.call("POST", f"/_matrix/client/v3/logout/all{asserted}", {})
    if (await kind_of(homeserver)).leaves_devices:
        # The call itself left one, and so would a question for the devices; this ends it, and leaves none.
        last = await homeserver.call("POST", f"/_matrix/client/v3/logout{asserted}", {})
        for each in (reply, last):
            if each.status != 200:
                raise classified(each, "end the sessions")
        return True
    left = await _devices(homeserver, asserted)
    if left is None:  # it does not show them
        if reply.status != 200:
            raise classified(reply, "end the sessions")
        return True
    for device_id in left:
        target = f"/_matrix/client/v3/devices/{quote(device_id, safe='')}{asserted}"
        reply = await homeserver.call("DELETE", target, {})
    if left and await _devices(homeserver, asserted) != []:
        raise _failure(reply)
    return True


def _failure(reply: Reply) -> Exception:
    if reply.status != 200:
        return classified(reply, "end the sessions")
    return Refused(Refusal.HOMESERVER_REFUSES_GATEWAY, reason="the homeserver still shows devices of this user")


async def _devices(homeserver: Homeserver, asserted: str) -> list[str] | None:
    """Return the ids of the devices, None where the homeserver does not show them."""
    reply = await homeserver.call("GET", f"/_matrix/client/v3/devices{asserted}")
    devices = reply.json().get("devices")
    if reply.status != 200 or not isinstance(devices, list):
        return None
    ids = [device.get("device_id") for device in devices if isinstance(device, dict)]
    return [device_id for device_id in ids if isinstance(device_id, str)]
