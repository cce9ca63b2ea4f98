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
from gateway.config.material import (
    ALLOW_UNSIGNED,
    NO_KEYS,
    find_database,
    make_key_set,
    read_as_token,
    read_secrets,
)
from gateway.config.reading import read_settings
from gateway.config.tables import Settings
from gateway.core.accounts import AccountRules
from gateway.core.identity import UserMapping
from gateway.core.keys import KeySet
from gateway.core.tokens import Trust
from gateway.errors import ConfigurationError

__all__ = ["ALLOW_UNSIGNED", "Configuration", "Settings", "load"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings that hold together, with what their files contain; `repr` shows no secret."""

    path: Path
    settings: Settings = field(repr=False)
    key_set: KeySet = field(repr=False)
    as_token: str = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def trust(self) -> Trust:
        """Whose tokens are believed."""
        return Trust(self.key_set, self.settings.jwt)

    @property
    def mapping(self) -> UserMapping:
        """How claims become users."""
        settings = self.settings
        return UserMapping.of(
            settings.identity,
            settings.jwt,
            settings.homeserver.server_name,
            issuer_matters=bool(settings.jwt.issuer),
        )

    @property
    def account_rules(self) -> AccountRules:
        """Which accounts a login may make or take over."""
        return AccountRules(
            register_user=self.settings.jwt.register_user,
            existing_accounts=self.settings.identity.existing_accounts,
        )


def load(path: Path, environment: Mapping[str, str] = os.environ, *, with_secrets: bool = True) -> Configuration:
    """Read the file and the environment; raises `ConfigurationError` with every problem.

    Without secrets, keys and as_token are empty: that works for a user who may not read their files.
    """
    settings, report = read_settings(path, environment)
    files = Files(environment, report)
    key_set, as_token = NO_KEYS, ""
    if with_secrets:
        secrets = read_secrets(settings.jwt, files, report)
        key_set = make_key_set(settings.jwt, secrets, environment, report)
        as_token = read_as_token(settings.session, files, report, needed=settings.jwt.enable)
    database = find_database(settings.database, files, report)
    advise(settings.jwt, report)
    if report.problems:
        raise ConfigurationError(report.problems)
    return Configuration(
        path=path,
        settings=settings.model_copy(update={"database": database}),
        key_set=key_set,
        as_token=as_token,
        warnings=tuple(report.warnings),
    )
