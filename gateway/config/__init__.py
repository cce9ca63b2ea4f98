"""The configuration: one TOML file and the environment to checked settings, every problem in one report.

Reading is strict: an unknown key, a value of another type, a file that can't be read are problems, each with its
place and what to do. Nothing here opens a connection or writes a file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.advice import advise
from gateway.config.files import Files
from gateway.config.key_sources import find_source
from gateway.config.material import (
    ALLOW_UNSIGNED,
    NO_KEYS,
    check_issuers,
    find_database,
    make_key_set,
    read_certificate,
    read_secrets,
)
from gateway.config.reading import read_settings
from gateway.config.session import check_secret_is_own, read_session
from gateway.config.tables import Entry, IdentitySettings, IssuerSettings, Settings, entries
from gateway.core.accounts import AccountRules
from gateway.core.identity import UserMapping
from gateway.core.keys import KeySet
from gateway.core.tokens import Trust
from gateway.errors import ConfigurationError
from gateway.issuer_keys import KeySource
from gateway.profile import ProfileSettings
from gateway.web.certificate import Certificate

__all__ = ["ALLOW_UNSIGNED", "Configuration", "ConfiguredIssuer", "Settings", "load"]


@dataclass(frozen=True, slots=True)
class ConfiguredIssuer:
    """Whose tokens are believed, and which users they stand for; `repr` shows no key.

    Where `key_source` is set, the keys are fetched from there, and `key_set` holds none.
    """

    settings: IssuerSettings = field(repr=False)
    identity: IdentitySettings
    mapping: UserMapping = field(repr=False)
    key_set: KeySet = field(repr=False)
    key_source: KeySource | None = None

    @property
    def trust(self) -> Trust:
        """Whose tokens are believed, by configured keys."""
        return Trust(self.key_set, self.settings)

    @property
    def account_rules(self) -> AccountRules:
        """Which accounts a login may make or take over."""
        return AccountRules(
            register_user=self.settings.register_user,
            existing_accounts=self.identity.existing_accounts,
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings that hold together, with what their files contain; `repr` shows no secret."""

    path: Path
    environment: Mapping[str, str] = field(repr=False)
    settings: Settings = field(repr=False)
    issuers: tuple[ConfiguredIssuer, ...]
    as_token: str = field(repr=False)
    session_secret: str = field(repr=False)
    certificate: Certificate | None
    warnings: tuple[str, ...]

    @property
    def profile(self) -> ProfileSettings:
        """What is set of a user's profile: nothing where the gateway is no application service."""
        if self.as_token:
            return self.settings.profile
        return self.settings.profile.model_copy(update={"display_name": "never", "avatar": "never"})

    def read_again(self) -> "Configuration":
        """Read the file, what it names and the same environment again; raises `ConfigurationError`."""
        return load(self.path, self.environment)

    def warnings_at(self, now: float) -> tuple[str, ...]:
        """Return what is unwise in the settings, or not good at this time, in seconds since 1970."""
        concern = self.certificate.concern(now) if self.certificate else ""
        place = f"[server] tls_certificate: {self.settings.server.tls_certificate}"
        return (*self.warnings, f"{place} {concern}") if concern else self.warnings


def load(path: Path, environment: Mapping[str, str] = os.environ, *, with_secrets: bool = True) -> Configuration:
    """Read the file and the environment; raises `ConfigurationError` with every problem.

    Without secrets, keys, as_token and the like are empty: that works for a user who may not read their files.
    """
    settings, report = read_settings(path, environment)
    files = Files(environment, report)
    found = entries(settings)
    check_issuers(settings.jwt, found, report)
    secrets: list[list[str]] = [[] for _ in found]
    key_sets, as_token, session_secret, certificate = [NO_KEYS for _ in found], "", "", None
    if with_secrets:
        secrets = [read_secrets(entry, files, report) for entry in found]
        if settings.jwt.enable:
            key_sets = [
                make_key_set(entry, own, environment, report) for entry, own in zip(found, secrets, strict=True)
            ]
        as_token, session_secret = read_session(settings, found, files, report)
        check_secret_is_own(settings.session, session_secret, found, key_sets, report)
        certificate = read_certificate(settings.server, files, report)
    database = find_database(settings.database, files, report)
    advise(settings, found, secrets, report)
    if report.problems:
        raise ConfigurationError(report.problems)
    return Configuration(
        path=path,
        environment=environment,
        settings=settings.model_copy(update={"database": database}),
        issuers=tuple(_configured(entry, settings, key_set) for entry, key_set in zip(found, key_sets, strict=True)),
        as_token=as_token,
        session_secret=session_secret,
        certificate=certificate,
        warnings=tuple(report.warnings),
    )


def _configured(entry: Entry, settings: Settings, key_set: KeySet) -> ConfiguredIssuer:
    source = find_source(entry) if settings.jwt.enable else None
    return ConfiguredIssuer(entry.settings, entry.identity, _mapping(entry, settings), key_set, source)


def _mapping(entry: Entry, settings: Settings) -> UserMapping:
    linked = set(entry.settings.linked_issuers)
    if not settings.jwt.issuers:
        linked.add("")  # an account from before `issuer` was set; of several issuers it could be any one's
    return UserMapping.of(
        entry.identity,
        entry.settings,
        settings.homeserver.server_name,
        issuer_matters=bool(entry.settings.issuer),
        linked_issuers=frozenset(linked),
    )
