"""The tables of the file: the settings classes of the parts, and the keys that only the file has."""

from typing import Any, Literal

from pydantic import field_validator

from gateway.config.problems import Keys
from gateway.core.accounts import ExistingAccounts
from gateway.core.identity import ClaimNames, IdentityRules
from gateway.core.keys import Format
from gateway.core.tokens import TokenRules
from gateway.limits import LimitSettings
from gateway.logs import LogSettings
from gateway.settings import OneOrMore, Table
from gateway.sign_in import ProfileSettings
from gateway.storage.database import DatabaseSettings
from gateway.upstream.homeserver import HomeserverSettings
from gateway.upstream.sessions.appservice import SessionSettings
from gateway.web.server import ServerSettings


class JwtSettings(TokenRules, ClaimNames):
    """The `[jwt]` table."""

    enable: bool = True
    secret: OneOrMore = []
    secret_file: OneOrMore = []
    format: Format = "HMAC"
    algorithm: OneOrMore = ["HS256"]
    allow_weak_secret: bool = False
    register_user: bool = True
    login_types: list[Literal["org.matrix.login.jwt", "m.login.jwt"]] = ["org.matrix.login.jwt"]

    @field_validator("format", mode="before")
    @classmethod
    def _other_spelling(cls, value: Any) -> Any:
        return "B64HMAC" if value == "HMACB64" else value


class IdentitySettings(IdentityRules):
    """The `[identity]` table."""

    existing_accounts: ExistingAccounts = "link"


class Settings(Table):
    """The whole file, table by table."""

    server: ServerSettings = ServerSettings()
    homeserver: HomeserverSettings
    session: SessionSettings = SessionSettings()
    jwt: JwtSettings = JwtSettings()
    identity: IdentitySettings = IdentitySettings()
    profile: ProfileSettings = ProfileSettings()
    limits: LimitSettings = LimitSettings()
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()


def fields_of(keys: Keys) -> dict[str, Any]:
    """Return the fields of the table at `keys`, empty where there is no such table."""
    model: Any = Settings
    for key in keys:
        known = getattr(model, "model_fields", {})
        if key not in known:
            return {}
        model = known[key].annotation
    return dict(getattr(model, "model_fields", {}))
