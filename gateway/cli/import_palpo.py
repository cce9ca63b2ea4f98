"""Palpo's `[jwt]` and tuwunel's `[global.jwt]`, which have the same keys and nearly the same names."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import AliasChoices, Field

from gateway.cli.imported import ForeignTable, Imported, address, read_table, server_name_of, set_key
from gateway.core.keys import ALGORITHMS, Format
from gateway.errors import ConfigurationError

_FORMATS: Final[dict[str, Format]] = {
    "HMAC": "HMAC",
    "B64HMAC": "B64HMAC",
    "HMACB64": "B64HMAC",  # what the code of both reads, where their guides write B64HMAC
    "ECDSA": "ECDSA",
    "EDDSA": "EDDSA",
}
_DIFFERENCES: Final = (
    "A token whose `iat` is ahead of the clock is refused here; {} does not look at it.",
    "`_` in front of a name and names of digits only are refused.",
    "With register_user = false, an unknown user is 403 `User not found` here, and 404 there.",
    "An account belongs to the first subject that logs in to it.",
    'Accounts that exist are linked at their next login, unless existing_accounts = "refuse".',
    "Take its table of JWT logins out when the gateway is in place; until then, both work.",
)


class _Jwt(ForeignTable):
    enable: bool = True
    secret: str = Field("", validation_alias=AliasChoices("secret", "key"))
    format: str = "HMAC"
    algorithm: str = "HS256"
    register_user: bool = True
    audience: list[str] = []
    issuer: list[str] = []
    require_exp: bool = False
    require_nbf: bool = False
    validate_exp: bool = True
    validate_nbf: bool = True
    validate_signature: bool = True


class _TuwunelJwt(_Jwt):
    enable: bool = False


def read_palpo(path: Path) -> Imported:
    """Read `palpo.toml`; raises `ConfigurationError`."""
    table = _read_toml(path)
    if "jwt" not in table:
        raise ConfigurationError([f"{path}: there is no table [jwt]"])
    theirs = read_table(_Jwt, table["jwt"], path, "jwt")
    imported = _imported("Palpo", path, table, theirs)
    listeners = table.get("listeners")
    first = listeners[0] if isinstance(listeners, list) and listeners else {}
    where = first.get("address") if isinstance(first, dict) else None
    host, _, port = where.rpartition(":") if isinstance(where, str) else ("", "", "8008")
    imported.url = address(host.strip("[]"), port, tls=isinstance(first, dict) and "tls" in first)
    return imported


def read_tuwunel(path: Path) -> Imported:
    """Read `tuwunel.toml`; raises `ConfigurationError`."""
    table = _read_toml(path).get("global")
    if not isinstance(table, dict) or "jwt" not in table:
        raise ConfigurationError([f"{path}: there is no table [global.jwt]"])
    theirs = read_table(_TuwunelJwt, table["jwt"], path, "global.jwt")
    imported = _imported("tuwunel", path, table, theirs)
    if isinstance(table.get("unix_socket_path"), str):
        imported.url = f"unix:{table['unix_socket_path']}"
    else:
        host, port = (_first(table.get(key, default)) for key, default in (("address", "127.0.0.1"), ("port", 8008)))
        imported.url = address(str(host), port, tls=isinstance(table.get("tls"), dict))
    return imported


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError([f"{path}: not TOML: {error}"]) from None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value


def _imported(software: str, path: Path, table: Mapping[str, Any], theirs: _Jwt) -> Imported:
    # tuwunel takes a format in any case.
    key_format = _FORMATS.get(theirs.format.upper())
    if key_format is None:
        raise ConfigurationError(
            [f"{path}: format: {theirs.format!r} is not known; use one of {', '.join(_FORMATS)}"]
        )
    if theirs.algorithm not in ALGORITHMS[key_format]:
        allowed = ", ".join(ALGORITHMS[key_format])
        raise ConfigurationError(
            [f"{path}: algorithm: {theirs.algorithm!r} does not fit {key_format}; use {allowed}"]
        )
    imported = Imported(software, str(path), server_name_of(table, path), "", {})
    imported.differences += (difference.format(software) for difference in _DIFFERENCES)
    if not theirs.enable:
        imported.jwt["enable"] = False
        imported.notes["enable"] = f"JWT login is off in {software}. true switches it on."
    set_key(imported, key_format, theirs.secret, theirs.algorithm)
    changed = theirs.model_dump(
        include={"audience", "issuer", "require_exp", "require_nbf", "validate_exp", "validate_nbf"},
        exclude_defaults=True,
    )
    imported.jwt |= {"register_user": theirs.register_user, **changed}
    if not theirs.require_exp:
        imported.differences.append(
            "If each of your tokens has exp, set require_exp = true: a token without it logs in for ever."
        )
    if not theirs.validate_signature:
        imported.differences.append(
            "validate_signature = false is not taken over: everybody could log in as anybody by it."
        )
    imported.differences += (f"{name}: is not known here, and left out." for name in theirs.model_extra or ())
    return imported
