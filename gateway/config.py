"""The configuration: one TOML file and the environment to checked settings, every problem in one report.

Reading is strict: an unknown key, a value of another type, a file that can't be read are problems, each with its
place and its mend. Nothing here opens a connection or writes a file.
"""

import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BeforeValidator, ValidationError, field_validator

from gateway.core.accounts import AccountRules
from gateway.core.identity import ClaimNames, IdentityRules
from gateway.core.keys import MIN_SECRET_BYTES, Format, KeySet, build_key_set
from gateway.core.tokens import TokenRules
from gateway.errors import ConfigurationError
from gateway.limits import LimitSettings
from gateway.logs import LogSettings
from gateway.problems import Keys, Places, explanation
from gateway.settings import Table
from gateway.sign_in import ProfileSettings
from gateway.storage.database import DatabaseSettings
from gateway.upstream.homeserver import HomeserverSettings
from gateway.upstream.sessions.appservice import SessionSettings
from gateway.web.server import ServerSettings

ENVIRONMENT_PREFIX: Final = "MATRIX_LOGIN_GATEWAY__"
ALLOW_UNSIGNED: Final = "MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED"

# The keys that must be right before the key material can be judged.
_OF_THE_KEY: Final = ("secret", "key", "secret_file", "format", "algorithm", "allow_weak_secret")
_MAX_SECRET_FILE: Final = 64 * 1024
_MIN_AS_TOKEN: Final = 32
_SECRET: Final = ("jwt", "secret")
_KEY: Final = ("jwt", "key")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OneOrMore = Annotated[list[str], BeforeValidator(_as_list)]


class JwtSettings(TokenRules, ClaimNames):
    """The `[jwt]` table."""

    enable: bool = True
    secret: OneOrMore = []
    secret_file: OneOrMore = []
    format: Format = "HMAC"
    algorithm: OneOrMore = ["HS256"]
    allow_weak_secret: bool = False
    register_user: bool = True
    audience: OneOrMore = []
    issuer: OneOrMore = []
    login_types: list[Literal["org.matrix.login.jwt", "m.login.jwt"]] = ["org.matrix.login.jwt"]

    @field_validator("format", mode="before")
    @classmethod
    def _other_spelling(cls, value: Any) -> Any:
        return "B64HMAC" if value == "HMACB64" else value


class IdentitySettings(IdentityRules):
    """The `[identity]` table."""

    existing_accounts: Literal["link", "refuse"] = "link"


class SessionTable(SessionSettings):
    """The `[session]` table with the file form of its secret."""

    as_token_file: str | None = None


class Settings(Table):
    """The whole file, table by table."""

    server: ServerSettings = ServerSettings()
    homeserver: HomeserverSettings
    session: SessionTable = SessionTable()
    jwt: JwtSettings = JwtSettings()
    identity: IdentitySettings = IdentitySettings()
    profile: ProfileSettings = ProfileSettings()
    limits: LimitSettings = LimitSettings()
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings that hold together, with what their files contain; `repr` shows no secret."""

    path: Path
    settings: Settings = field(repr=False)
    key_set: KeySet = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    as_token: str = field(repr=False)
    database: DatabaseSettings
    warnings: tuple[str, ...]

    @property
    def account_rules(self) -> AccountRules:
        """Which accounts a login may make or take over."""
        return AccountRules(
            register_user=self.settings.jwt.register_user,
            existing_accounts=self.settings.identity.existing_accounts,
        )


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read the file and the environment; raises `ConfigurationError` with every problem."""
    text = _read_text(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigurationError([f"{path}: not TOML: {error}"]) from None
    places = Places.of(path, text)
    problems = [*_rename_key(table, places), *_override(table, environment, places)]
    settings, broken = _settings(table, places, problems)
    if settings is None:
        raise ConfigurationError(problems)
    return _Build(environment, places, problems).configuration(settings, broken)


def _settings(table: dict[str, Any], places: Places, problems: list[str]) -> tuple[Settings | None, set[Keys]]:
    """Return the settings and which keys are broken: the rest is read as if they were not there."""
    try:
        return Settings.model_validate(table), set()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    for details in found:
        keys = tuple(str(key) for key in details["loc"] if not isinstance(key, int))
        problems.append(places.problem(keys, explanation(details, keys, _fields_of(keys[:-1]))))
    broken = {tuple(str(part) for part in details["loc"][:2]) for details in found}
    rest = {
        name: {key: value for key, value in inner.items() if (name, key) not in broken}
        for name, inner in table.items()
        if isinstance(inner, dict) and (name,) not in broken
    }
    rest["homeserver"] = {"url": "http://localhost", "server_name": "localhost", **rest.get("homeserver", {})}
    try:
        return Settings.model_validate(rest), broken
    except ValidationError:
        return None, broken


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: not UTF-8 text"]) from None


def _rename_key(table: dict[str, Any], places: Places) -> Iterator[str]:
    """Take `key` of the `[jwt]` table, as Palpo names it, for `secret`."""
    jwt = table.get("jwt")
    if not isinstance(jwt, dict) or "key" not in jwt:
        return
    if "secret" in jwt:
        yield places.problem(("jwt", "key"), "stands beside `secret`, which is its other name; keep one of the two")
    else:
        places.known[_SECRET] = places.known.get(_KEY, str(places.path))
    jwt["secret"] = jwt.pop("key")


def _override(table: dict[str, Any], environment: Mapping[str, str], places: Places) -> Iterator[str]:
    """Put the values of the environment into the table; yields what is wrong with one."""
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        keys = _SECRET if keys == _KEY else keys
        inner: Any = table
        for key in keys[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else None
        if not all(keys) or not isinstance(inner, dict):
            yield f"environment {ascii(name)[1:-1]}: names no key; write {ENVIRONMENT_PREFIX}TABLE__KEY"
        elif re.search("[\ud800-\udfff]", name + value):  # octets that are no UTF-8 come as these (PEP 383)
            yield f"environment {ascii(name)[1:-1]}: not UTF-8 text"
        else:
            inner[keys[-1]] = _environment_value(keys, value)
            places.note(keys, f"environment {name}")


def _environment_value(keys: Keys, value: str) -> Any:
    """Return a value of the environment: plain text for text, TOML for the rest."""
    if _is_text(keys) and not value.startswith(("[", '"', "'")):
        return value
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return value
    return parsed["value"] if len(parsed) == 1 else value


def _is_text(keys: Keys) -> bool:
    fields = _fields_of(keys[:-1])
    if keys[-1] not in fields:
        return False
    annotation = fields[keys[-1]].annotation
    return get_origin(annotation) is not dict and str in {annotation, *get_args(annotation)}


def _fields_of(keys: Keys) -> dict[str, Any]:
    model: Any = Settings
    for key in keys:
        known = getattr(model, "model_fields", {})
        if key not in known:
            return {}
        model = known[key].annotation
    return dict(getattr(model, "model_fields", {}))


class _Build:
    """Reads the files that settings name and checks what no single key can show."""

    def __init__(self, environment: Mapping[str, str], places: Places, problems: list[str]) -> None:
        self._path = places.path
        self._environment = environment
        self._places = places
        self._problems = problems
        self._warnings: list[str] = []

    def configuration(self, settings: Settings, broken: Collection[Keys]) -> Configuration:
        """Return the whole; what needs one of the `broken` keys is left out of the checks."""
        self._settings = settings
        self._broken = broken
        secrets = self._secrets()
        key_set = self._key_set(secrets)
        as_token = self._as_token()
        database = self._database()
        self._warn()
        if self._problems:
            raise ConfigurationError(self._problems)
        return Configuration(
            path=self._path,
            settings=self._settings,
            key_set=key_set,
            secrets=tuple(secrets),
            as_token=as_token,
            database=database,
            warnings=tuple(self._warnings),
        )

    def _secrets(self) -> list[str]:
        jwt = self._settings.jwt
        if jwt.secret and jwt.secret_file:
            self._report(("jwt", "secret_file"), "stands beside `secret`; keep one of the two")
        if jwt.secret:
            self._warn_readable(self._path, "holds a secret")
        return jwt.secret or [
            text for name in jwt.secret_file if (text := self._read_secret(("jwt", "secret_file"), name)) is not None
        ]

    def _key_set(self, secrets: list[str]) -> KeySet:
        jwt = self._settings.jwt
        nothing = KeySet((), frozenset())
        if not jwt.enable or self._is_broken("jwt", *_OF_THE_KEY):
            return nothing
        if not jwt.validate_signature:
            if self._environment.get(ALLOW_UNSIGNED) != "1":
                self._report(
                    ("jwt", "validate_signature"),
                    "false lets everybody log in as anybody; take it out, or set"
                    f" {ALLOW_UNSIGNED}=1 in the environment of a test installation",
                )
            return nothing
        if not secrets and jwt.secret_file:
            return nothing  # reported where they were read
        try:
            return build_key_set(jwt.format, secrets, jwt.algorithm, allow_weak_secret=jwt.allow_weak_secret)
        except ConfigurationError as error:
            for problem in error.problems:
                key, _, text = problem.partition(": ")
                name, _, which = key.partition(" ")
                if name == "secret" and jwt.secret_file:
                    name = "secret_file"
                self._report(("jwt", name), f"{which}: {text}" if which else text)
            return nothing

    def _as_token(self) -> str:
        session = self._settings.session
        token = session.as_token
        if token is not None and session.as_token_file is not None:
            self._report(("session", "as_token_file"), "stands beside `as_token`; keep one of the two")
        elif token is not None:
            self._warn_readable(self._path, "holds the as_token")
        elif session.as_token_file is not None:
            token = self._read_secret(("session", "as_token_file"), session.as_token_file)
        elif self._settings.jwt.enable and not self._is_broken("session", "as_token", "as_token_file"):
            self._report(
                ("session",),
                "there is no as_token; `matrix-login-gateway init` makes one, with its registration",
            )
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            key = "as_token_file" if session.as_token is None else "as_token"
            self._report(("session", key), "must be one word of printable ASCII characters")
        if token is not None and len(token) < _MIN_AS_TOKEN:
            self._warnings.append(
                f"[session] as_token: is short; it is worth the whole server, so use {_MIN_AS_TOKEN} or more"
            )
        return token or ""

    def _database(self) -> DatabaseSettings:
        keys = ("database", "url")
        if self._is_broken(*keys):
            return self._settings.database
        prefix, _, name = self._settings.database.url.partition(":///")
        path = self._resolve(keys, name)
        if path is None:
            return self._settings.database
        if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises for one that is too long
            self._report(keys, f"there is no directory {path.parent}; make it, owned by the gateway's user")
        try:
            return DatabaseSettings(url=f"{prefix}:///{path}")
        except ValidationError:
            self._report(keys, f"a path with a question mark is not taken: {path}")
            return self._settings.database

    def _read_secret(self, keys: Keys, name: str) -> str | None:
        path = self._resolve(keys, name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_SECRET_FILE + 1)
            text = raw.decode("utf-8-sig")
        except OSError as error:
            self._report(keys, f"{path} can't be read: {error.strerror}")
            return None
        except UnicodeDecodeError:
            self._report(keys, f'{path} is not text; for octets use format = "B64HMAC"')
            return None
        if len(raw) > _MAX_SECRET_FILE:
            self._report(keys, f"{path} is larger than {_MAX_SECRET_FILE} bytes, which no key is")
            return None
        if "-----BEGIN" not in text:
            self._warn_readable(path, "holds a secret")
        return text.rstrip("\r\n")

    def _resolve(self, keys: Keys, name: str) -> Path | None:
        def expand(match: re.Match[str]) -> str:
            value = self._environment.get(match[1])
            if value is None:
                self._report(keys, f"${{{match[1]}}} is not set in the environment; systemd sets it for a service")
            return value or ""

        known = len(self._problems)
        expanded = re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", expand, name)
        if "\0" in expanded:
            self._report(keys, "has a NUL character in it, which no path has")
        return None if len(self._problems) > known else (self._path.parent / expanded).absolute()

    def _warn(self) -> None:
        jwt = self._settings.jwt
        if not jwt.enable:
            self._warnings.append("[jwt] enable: is false; the gateway only passes requests on")
            return
        if not jwt.validate_signature:
            self._warnings.append("[jwt] validate_signature: is false; everybody can log in as anybody")
        if not jwt.require_exp:
            self._warnings.append("[jwt] require_exp: is false; a token without exp logs in for ever")
        if not jwt.issuer:
            self._warnings.append("[jwt] issuer: is empty; whoever holds the key may be any issuer")
        if jwt.allow_weak_secret:
            need = max((MIN_SECRET_BYTES.get(name, 0) for name in jwt.algorithm), default=0)
            self._warnings.append(
                f"[jwt] allow_weak_secret: is true; {', '.join(jwt.algorithm)} needs {need} bytes or more"
            )
        if jwt.email_claim:
            self._warnings.append(
                "[jwt] email_claim: is not used; no homeserver lets an application service set an address"
            )
        if jwt.avatar_claim:
            self._warnings.append("[jwt] avatar_claim: only mxc:// addresses are set; others are left alone")

    def _warn_readable(self, path: Path, why: str) -> None:
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        warning = f"{path}: {why} and everybody on this machine can read it; chmod 640 or stricter"
        if mode & stat.S_IROTH and warning not in self._warnings:
            self._warnings.append(warning)

    def _is_broken(self, table: str, *keys: str) -> bool:
        return (table,) in self._broken or any((table, key) in self._broken for key in keys)

    def _report(self, keys: Keys, text: str) -> None:
        self._problems.append(self._places.problem(keys, text))
