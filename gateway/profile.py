"""The profile of a user from the token's claims, set beside the answer: it neither slows nor fails a login."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, Literal

from gateway.core.avatars import Avatar, is_mxc
from gateway.core.identity import Identity
from gateway.errors import Refused
from gateway.limits import Places
from gateway.logs import Logger
from gateway.storage.avatars import Avatars
from gateway.tasks import Background
from gateway.upstream.answers import HomeserverAnswered
from gateway.upstream.fetching import NotFetched
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.images import AT_ONCE, Images, ImageSettings
from gateway.upstream.profiles import set_avatar, set_display_name, upload

When = Literal["never", "first_login", "every_login"]

# Profiles that are being set or wait for it. More are dropped: images come from servers that may hang.
_MOST: Final = 1000


class ProfileSettings(ImageSettings):
    """The `[profile]` table: when display name and avatar are set from the token's claims."""

    display_name: When = "first_login"
    avatar: When = "first_login"


@dataclass(frozen=True, slots=True)
class Profile:
    """Sets display names and avatars. An avatar is set when its claim differs from the one that was set last."""

    settings: ProfileSettings
    homeserver: Homeserver
    images: Images
    avatars: Avatars
    background: Background
    log: Logger
    _busy: set[str] = field(default_factory=set)
    _fetching: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _places: Places = field(default_factory=lambda: Places(_MOST, "profiles are being set already"))

    def set_beside(self, localpart: str, identity: Identity, *, made: bool) -> None:
        """Set what the claims say and the settings want, later; `made`: this login made the account."""
        occasions = {"every_login", "first_login"} if made else {"every_login"}
        name = identity.display_name if self.settings.display_name in occasions else None
        avatar = identity.avatar if self.settings.avatar in occasions else None
        if name or avatar:
            self.background.leave(self._set(localpart, name, avatar, made=made), "profile")

    async def _set(self, localpart: str, name: str | None, avatar: str | None, *, made: bool) -> None:
        user_id = self.homeserver.user_id(localpart)
        with self._told(user_id), self._places.one():
            if name:
                with self._told(user_id):
                    await set_display_name(self.homeserver, user_id, name)
            # Of several logins at once the first one's will do.
            if avatar and localpart not in self._busy:
                self._busy.add(localpart)
                try:
                    await self._set_avatar(localpart, user_id, avatar, made=made)
                finally:
                    self._busy.discard(localpart)

    @contextmanager
    def _told(self, user_id: str) -> Iterator[None]:
        """Log a failure, which ends what stands in the block and nothing else."""
        try:
            yield
        except (Refused, HomeserverAnswered, NotFetched) as error:
            self.log.warning("profile_not_set", user_id=user_id, reason=str(error))

    async def _set_avatar(self, localpart: str, user_id: str, claim: str, *, made: bool) -> None:
        source = _digest(claim.encode("utf-8", "surrogatepass"))
        known = Avatar() if made else await self.avatars.find(localpart)
        if known.source == source:
            return
        if is_mxc(claim):
            found = Avatar(mxc=claim)
        elif claim[:8].lower() == "https://":
            found = await self._upload(localpart, user_id, claim, known)
        else:
            self.log.info("avatar_left_alone", user_id=user_id, reason="neither an mxc:// nor an https:// address")
            return
        if not known.source or found.mxc != known.mxc:
            await set_avatar(self.homeserver, user_id, found.mxc)
        await self.avatars.note(localpart, replace(found, source=source))

    async def _upload(self, localpart: str, user_id: str, address: str, known: Avatar) -> Avatar:
        """Return the image at an address as content of the homeserver, which may have it already."""
        async with self._fetching:
            image = await self.images.fetch(address)
            content = _digest(image.octets)
            # An address with a signature is another one each time.
            if content == known.content:
                return known
            mxc = await upload(self.homeserver, user_id, image.media_type, image.octets)
        found = Avatar(content=content, mxc=mxc)
        await self.avatars.note(localpart, found)  # should it not be set now, it need not be uploaded again
        return found


def _digest(octets: bytes) -> str:
    return sha256(octets).hexdigest()
