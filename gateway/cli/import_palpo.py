"""Palpo's `[jwt]` and tuwunel's `[global.jwt]`, which have the same keys and nearly the same names."""

import base64
import json
import tomllib
from collections.abc import Callable, Mapping
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
    (
        "Names that no new user may have (anna@example.org, jörg, max mustermann, 4711) log in where {} has made such"
        " a user of a subject: [identity] historical. `_` in front of a name is a bridge's, and refused."
    ),
    "Invisible characters, and user ids of other servers, are refused in a subject; {} makes users of them.",
    (
        "Subjects that differ in case alone are one user in {}. Here an account belongs to the first subject that"
        " logs in to it, and the others are refused."
    ),
    "Users of bridges look like anybody in {}: name them in [identity] deny.",
    "A token whose `iat` is ahead of the clock, or no number, is refused here; {} does not look at it.",
    "A token with `crit` or `b64` in its header is refused here; {} does not look at them.",
    "A token whose `iss` is a list is refused here where issuer is set; {} takes it.",
    "With register_user = false an unknown user is 403 M_FORBIDDEN `User not found` here, 404 M_NOT_FOUND in {}.",
    "The display name of a new user is the claim of display_name_claim, if that is set.",
    'Accounts that exist are linked at their next login, unless existing_accounts = "refuse".',
    (
        "Take its table of JWT logins out when the gateway is in place: until then, by {}'s own address users log in"
        " whom the gateway has locked or denies."
    ),
)
_KNOWN_FORMATS: Final = {"Palpo": ("HMAC", "HMACB64", "ECDSA"), "tuwunel": ("HMAC", "HMACB64", "ECDSA", "EDDSA")}
_ANSWERS: Final = {
    "Palpo": "Every refusal of a token is 403 M_FORBIDDEN in the words of Synapse; in Palpo it is 404 M_NOT_FOUND.",
    "tuwunel": "A refusal of a token is 403 M_FORBIDDEN in the words of Synapse; in tuwunel it has words of its own.",
}


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
    """Read Palpo's configuration, whose format its name tells; raises `ConfigurationError`."""
    table = _read_palpo(path)
    if "jwt" not in table:
        raise ConfigurationError([f"{path}: there is no table [jwt]"])
    theirs = read_table(_Jwt, table["jwt"], path, "jwt")
    imported = _imported("Palpo", path, table, theirs)
    listeners = table.get("listeners")
    usable = [entry for entry in listeners if isinstance(entry, dict)] if isinstance(listeners, list) else []
    listener = min(usable, key=_speaks_tls, default={})
    where = listener.get("address")
    host, _, port = where.rpartition(":") if isinstance(where, str) else ("", "", "8008")
    imported.url = address(host.strip("[]"), port, tls=_speaks_tls(listener))
    return imported


def _speaks_tls(listener: Mapping[str, Any]) -> bool:
    tls = listener.get("tls")
    return isinstance(tls, dict) and tls.get("enable", True) is not False


def read_tuwunel(path: Path) -> Imported:
    """Read `tuwunel.toml`; raises `ConfigurationError`."""
    table = _read(path, tomllib.loads, "TOML").get("global")
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


def _read_palpo(path: Path) -> dict[str, Any]:
    if path.suffix == ".kdl":
        fix = "write server_name, listeners and jwt as TOML, which Palpo reads too"
        raise ConfigurationError([f"{path}: is KDL, which `import` does not read; {fix}"])
    if path.suffix in {".yaml", ".yml"}:
        from gateway.cli.yaml_file import read_yaml  # noqa: PLC0415 - no other file of these needs PyYAML

        return read_yaml(path)
    return _read(path, json.loads, "JSON") if path.suffix == ".json" else _read(path, tomllib.loads, "TOML")


def _read(path: Path, loads: Callable[[str], Any], file_format: str) -> dict[str, Any]:
    try:
        value = loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError([f"{path}: not {file_format}: {error}"]) from None
    if not isinstance(value, dict):
        raise ConfigurationError([f"{path}: has no keys at its top, so it is another file"])
    return value


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
    imported.identity = {"historical": True}
    imported.notes["historical"] = f"Users of {software} whose names no new user may have log in."
    imported.differences += (text.format(software) for text in (_ANSWERS[software], *_DIFFERENCES))
    if unusable := _unusable(software, theirs):
        imported.differences.append(f"No token logs in at {software} with its table: {unusable}. Here they do.")
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
            f"validate_signature = false is left out: {software} checks signatures all the same, and so it is here."
        )
    imported.differences += (f"{name}: is not known here, and left out." for name in theirs.model_extra or ())
    return imported


def _unusable(software: str, theirs: _Jwt) -> str:
    """Say why the other server refuses every token with these values, "" where it does not."""
    known, key_format = _KNOWN_FORMATS[software], theirs.format if software == "Palpo" else theirs.format.upper()
    if key_format not in known:
        return f"of formats its code knows {', '.join(known)} alone"
    if key_format == "HMACB64" and not _is_standard_base64(theirs.secret):
        return "the secret is not base64 of the standard alphabet with its padding"
    return ""


def _is_standard_base64(text: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except ValueError:
        return False
