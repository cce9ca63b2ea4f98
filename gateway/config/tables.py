"""The tables of the file: the settings classes of the parts, and the keys that only the file has."""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import Field, field_validator

from gateway.config.problems import Keys
from gateway.core.accounts import ExistingAccounts
from gateway.core.identity import ClaimNames, IdentityRules
from gateway.core.keys import Format
from gateway.core.tokens import TokenRules
from gateway.issuer_keys import SET_SOURCES, KeySourceSettings
from gateway.limits import LimitSettings
from gateway.logs import LogSettings
from gateway.profile import ProfileSettings
from gateway.settings import OneOrMore, Table
from gateway.storage.database import DatabaseSettings
from gateway.upstream.homeserver import HomeserverSettings
from gateway.upstream.sessions import SessionSettings
from gateway.web.settings import ServerSettings


class IdentitySettings(IdentityRules):
    """The `[identity]` table."""

    existing_accounts: ExistingAccounts = "link"


class IssuerSettings(TokenRules, ClaimNames, KeySourceSettings):
    """What the `[jwt]` table and each `[[jwt.issuers]]` say of an issuer's tokens and users."""

    secret: OneOrMore = Field([], repr=False)
    secret_file: OneOrMore = []
    format: Format = "HMAC"
    algorithm: OneOrMore = ["HS256"]
    allow_weak_secret: bool = False
    register_user: bool = True
    linked_issuers: OneOrMore = []

    @field_validator("format", mode="before")
    @classmethod
    def _other_spelling(cls, value: Any) -> Any:
        return "B64HMAC" if value == "HMACB64" else value


class IssuerTable(IssuerSettings):
    """One of `[[jwt.issuers]]`; what is absent is taken from `[jwt]`, or from `[identity]`."""

    identity: IdentitySettings = IdentitySettings()


class JwtSettings(IssuerSettings):
    """The `[jwt]` table."""

    enable: bool = True
    login_types: list[Literal["org.matrix.login.jwt", "m.login.jwt"]] = ["org.matrix.login.jwt"]
    accept_in_password: bool = False
    issuers: list[IssuerTable] = []


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


@dataclass(frozen=True, slots=True)
class Entry:
    """The whole settings of an issuer, and where they stand: `taken` are the keys that it takes from `[jwt]`."""

    settings: IssuerSettings
    identity: IdentitySettings
    table: Keys
    taken: frozenset[str] = frozenset()

    def place(self, key: str) -> Keys:
        """Return where a key of this issuer stands."""
        return ("jwt", key) if key in self.taken else (*self.table, key)


# Where an issuer's keys come from: whoever names one of them takes none of the others from `[jwt]`.
_KEY_SOURCES: Final = frozenset(("secret", "secret_file", *SET_SOURCES))
# What is said of one issuer alone.
_NEVER_TAKEN: Final = frozenset(("issuer", "linked_issuers"))


def entries(settings: Settings) -> list[Entry]:
    """Return the issuers: those of `[[jwt.issuers]]`, or `[jwt]` itself where there are none."""
    jwt = settings.jwt
    if not jwt.issuers:
        return [Entry(jwt, settings.identity, ("jwt",))]
    return [
        _completed(table, settings, ("jwt", "issuers", str(position)))
        for position, table in enumerate(jwt.issuers, start=1)
    ]


def _completed(table: IssuerTable, settings: Settings, keys: Keys) -> Entry:
    own = frozenset(table.model_fields_set)
    excluded = own | _NEVER_TAKEN | (_KEY_SOURCES if own & _KEY_SOURCES else frozenset())
    taken = frozenset(settings.jwt.model_fields_set & IssuerSettings.model_fields.keys()) - excluded
    of_identity = settings.identity.model_fields_set - table.identity.model_fields_set
    return Entry(
        table.model_copy(update={name: getattr(settings.jwt, name) for name in taken}),
        table.identity.model_copy(update={name: getattr(settings.identity, name) for name in of_identity}),
        keys,
        taken,
    )


def fields_of(keys: Keys) -> dict[str, Any]:
    """Return the fields of the table at `keys`, empty where there is no such table."""
    model: Any = Settings
    for key in keys:
        if get_origin(model) is list and key.isdigit():
            model = get_args(model)[0]
            continue
        known = getattr(model, "model_fields", {})
        if key not in known:
            return {}
        model = known[key].annotation
    return dict(getattr(model, "model_fields", {}))
