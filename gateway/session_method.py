"""The session method that a configuration chooses, with all that a running gateway needs for it."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.config import Configuration
from gateway.errors import Refusal, Refused
from gateway.kept_sessions import KeptSessions
from gateway.logs import Logger
from gateway.storage.database import Database
from gateway.storage.personal_sessions import PersonalSessions
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.mas import MasAdmin
from gateway.upstream.sessions import SessionMethod
from gateway.upstream.sessions.chosen import chosen_method, keep_nothing, mas_admin


@dataclass(frozen=True, slots=True)
class ConfiguredMethod:
    """The method, and what it has beside it where the homeserver does not end its sessions."""

    name: str
    in_use: bool
    homeserver: Homeserver
    method: SessionMethod
    log: Logger
    mas: MasAdmin | None = None
    kept: KeptSessions | None = None

    @property
    def asked(self) -> SessionMethod | None:
        """The method, if anybody logs in by a JWT."""
        return self.method if self.in_use else None

    async def check(self) -> None:
        """Find out what homeserver it is, and say in the log where sessions can't be made before it.

        It may be down for now: then the first login finds it out, or who asks whether we are ready.
        """
        if not self.in_use:
            return
        try:
            await kind_of(self.homeserver)
            misfit = await self.method.misfit()
        except Refused as refused:
            if refused.refusal is not Refusal.HOMESERVER_REFUSES_GATEWAY:
                self.log.info("session_method_not_checked", method=self.name, reason=refused.reason)
                return
            misfit = refused.reason
        if misfit:
            hint = "`doctor` looks again"
            self.log.warning("session_method_does_not_fit", method=self.name, reason=misfit, hint=hint)

    async def close(self) -> None:
        """End the connections."""
        if self.mas is not None:
            await self.mas.close()


def build_session_method(
    configuration: Configuration,
    homeserver: Homeserver,
    database: Database,
    background: Background,
    now: Callable[[], float],
    log: Logger,
) -> ConfiguredMethod:
    """Build what `[session] method` names; `now` gives seconds since the epoch."""
    settings, secret = configuration.settings, configuration.session_secret
    session = settings.session
    if settings.profile.display_name == "never":
        session = session.model_copy(update={"jwt_display_name_claim": None})
    mas = mas_admin(session, secret, settings.homeserver)
    kept = KeptSessions(PersonalSessions(database), mas, homeserver, background, now, log) if mas else None
    keep = kept.keep if kept else keep_nothing
    method = chosen_method(session, secret, homeserver, now, mas=mas, keep=keep)
    return ConfiguredMethod(session.method, settings.jwt.enable, homeserver, method, log, mas, kept)
