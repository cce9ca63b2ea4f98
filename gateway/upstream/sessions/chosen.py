"""The session method that the configuration chooses, built from its settings."""

from collections.abc import Callable

from gateway.core.personal_sessions import PersonalSession
from gateway.upstream.homeserver import Homeserver, HomeserverSettings
from gateway.upstream.mas import MasAdmin
from gateway.upstream.sessions import SessionMethod, SessionSettings
from gateway.upstream.sessions.appservice import AppserviceSessions
from gateway.upstream.sessions.jwt import JwtSessions
from gateway.upstream.sessions.mas import Keep, MasSessions


async def keep_nothing(session: PersonalSession, token: str, device_name: str | None) -> None:
    """Keep nothing: for those who open no session."""


def mas_admin(settings: SessionSettings, secret: str, homeserver: HomeserverSettings) -> MasAdmin | None:
    """Return the client of Matrix Authentication Service where that makes the sessions; `secret` is the client's.

    Without a secret, which only a gateway that takes no tokens may lack, there is none either.
    """
    if settings.method != "mas" or not secret:
        return None
    return MasAdmin(settings, secret, homeserver.server_name, connect_timeout=homeserver.connect_timeout)


def chosen_method(
    settings: SessionSettings,
    secret: str,
    homeserver: Homeserver,
    now: Callable[[], float],
    *,
    mas: MasAdmin | None = None,
    keep: Keep = keep_nothing,
) -> SessionMethod:
    """Return the method; `secret` is what the homeserver has in common with us, `mas` what `mas_admin` gave."""
    if mas is not None:
        return MasSessions(mas, homeserver, settings.mas_expires_in, keep, now)
    if settings.method == "jwt":
        return JwtSessions(homeserver, settings, secret, now)
    return AppserviceSessions(homeserver)
