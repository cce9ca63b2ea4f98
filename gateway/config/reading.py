"""The file and the environment to settings; what is wrong goes into the report, and the rest is read without it."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError

from gateway.config.problems import Keys, Places, Report, explanation
from gateway.config.tables import Settings, fields_of
from gateway.errors import ConfigurationError

ENVIRONMENT_PREFIX: Final = "MATRIX_LOGIN_GATEWAY__"

_SECRET: Final = ("jwt", "secret")
_KEY: Final = ("jwt", "key")


def read_settings(path: Path, environment: Mapping[str, str]) -> tuple[Settings, Report]:
    """Return the settings and what is wrong with them; raises `ConfigurationError` where no settings remain."""
    text = _read_text(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigurationError([f"{path}: not TOML: {error}"]) from None
    report = Report(Places.of(path, text))
    _rename_keys(table, report)
    _override(table, environment, report)
    return _settings(table, report), report


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: not UTF-8 text"]) from None


def _rename_keys(table: dict[str, Any], report: Report) -> None:
    """Take `key` of the `[jwt]` table and of its issuers, as Palpo names it, for `secret`."""
    jwt = table.get("jwt")
    if not isinstance(jwt, dict):
        return
    _rename_key(jwt, ("jwt",), report)
    issuers = jwt.get("issuers")
    for position, inner in enumerate(issuers if isinstance(issuers, list) else (), start=1):
        if isinstance(inner, dict):
            _rename_key(inner, ("jwt", "issuers", str(position)), report)


def _rename_key(table: dict[str, Any], keys: Keys, report: Report) -> None:
    if "key" not in table:
        return
    if "secret" in table:
        report.problem((*keys, "key"), "is set together with `secret`, which is its other name; keep one of the two")
    else:
        places = report.places
        places.known[*keys, "secret"] = places.known.get((*keys, "key"), str(places.path))
    table["secret"] = table.pop("key")


def _override(table: dict[str, Any], environment: Mapping[str, str], report: Report) -> None:
    """Put the values of the environment into the table."""
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        keys = _SECRET if keys == _KEY else keys
        inner: Any = table
        for key in keys[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else None
        place = f"environment {ascii(name)[1:-1]}"
        if not all(keys) or not isinstance(inner, dict):
            report.problems.append(f"{place}: names no key; write {ENVIRONMENT_PREFIX}TABLE__KEY")
        elif re.search("[\ud800-\udfff]", name + value):  # octets that are no UTF-8 come as these (PEP 383)
            report.problems.append(f"{place}: not UTF-8 text")
        else:
            inner[keys[-1]] = _environment_value(keys, value)
            report.places.note(keys, f"environment {name}")


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
    fields = fields_of(keys[:-1])
    if keys[-1] not in fields:
        return False
    annotation = fields[keys[-1]].annotation
    return get_origin(annotation) is not dict and str in {annotation, *get_args(annotation)}


def _settings(table: dict[str, Any], report: Report) -> Settings:
    """Return the settings; those that are broken are read as if they were not there."""
    try:
        return Settings.model_validate(table)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    for details in found:
        keys, position = _place(details["loc"])
        report.problem(keys, explanation(details, keys, fields_of(keys[:-1])), position)
    report.broken = {tuple(str(part) for part in details["loc"][:2]) for details in found}
    rest = {
        name: {key: value for key, value in inner.items() if (name, key) not in report.broken}
        for name, inner in table.items()
        if isinstance(inner, dict) and (name,) not in report.broken
    }
    rest["homeserver"] = {"url": "http://localhost", "server_name": "localhost", **rest.get("homeserver", {})}
    try:
        return Settings.model_validate(rest)
    except ValidationError:
        raise ConfigurationError(report.problems) from None


def _place(location: tuple[int | str, ...]) -> tuple[Keys, int | None]:
    """Return the keys of what pydantic found, and the position in the list that the last one holds."""
    keys: list[str] = []
    position = None
    for part in location:
        if isinstance(part, str):
            keys.append(part)
        elif keys == ["jwt", "issuers"]:
            keys.append(str(part + 1))
        elif position is None:
            position = part + 1
    return tuple(keys), position
