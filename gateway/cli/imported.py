"""What another server's configuration becomes: a `gateway.toml` that accepts the same tokens, and what differs.

Rule: the key material is judged here as `serve` will judge it, so that nobody learns of a refused key at the start.
"""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.config.problems import explanation
from gateway.core.identity import check_server_name
from gateway.core.keys import Format, UnfitKeys, build_key_set
from gateway.errors import ConfigurationError
from gateway.logs import printable
from gateway.upstream.pool import parse_address


class ForeignTable(BaseModel):
    """A table of another server's configuration: what we know of it, strictly typed; the rest is kept aside."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, hide_input_in_errors=True)


_Table = TypeVar("_Table", bound=ForeignTable)


@dataclass(slots=True)
class Imported:
    """The values in the gateway's words; `notes` are on one key each, `differences` on the whole."""

    software: str
    source: str
    server_name: str
    url: str
    jwt: dict[str, Any]
    identity: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_table(model: type[_Table], value: object, path: Path, name: str) -> _Table:
    """Return the table; raises `ConfigurationError` with all that is wrong in it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = []
        for details in error.errors(include_url=False, include_input=False):
            keys = tuple(str(key) for key in details["loc"])
            problems.append(f"{path}: {'.'.join((name, *keys))}: {explanation(details, keys or (name,), ())}")
        raise ConfigurationError(problems) from None


def server_name_of(table: Mapping[str, Any], path: Path) -> str:
    """Return the `server_name` of a file; raises `ConfigurationError`."""
    value = table.get("server_name")
    if not isinstance(value, str):
        raise ConfigurationError([f"{path}: server_name: is missing, or no text in quotes"])
    try:
        return check_server_name(value)
    except ValueError as error:
        raise ConfigurationError([f"{path}: server_name: {error}"]) from None


def address(host: str, port: object, *, tls: bool) -> str:
    """Return the URL of a listener as somebody on this machine reaches it."""
    if host in {"", "0.0.0.0", "localhost"}:  # noqa: S104 - what the other server listens on
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http{'s' * tls}://{f'[{host}]' if ':' in host else host}:{port}"


def set_key(imported: Imported, key_format: Format, secret: str, algorithm: str) -> None:
    """Add the key to the `[jwt]` table, with a note where the gateway is stricter with it, or a problem."""
    jwt = imported.jwt
    jwt |= {"secret": secret, "format": key_format, "algorithm": algorithm}
    try:
        build_key_set(key_format, [secret], [algorithm])
    except UnfitKeys as refused:
        try:
            build_key_set(key_format, [secret], [algorithm], allow_weak_secret=True)
        except UnfitKeys:
            imported.problems += [f"{problem.key}: {problem.text}" for problem in refused.problems]
        else:
            jwt["allow_weak_secret"] = True
            imported.notes["allow_weak_secret"] = (
                f"The secret is too short for {algorithm} (RFC 7518 section 3.2), which {imported.software} does not"
                " mind. Better: a longer one."
            )


def toml_text(imported: Imported) -> str:
    """Return the file; raises `ConfigurationError` where the address can't be one."""
    try:
        parse_address(imported.url)
    except ValueError as error:
        raise ConfigurationError([f"{imported.source}: the address it listens on: {error}"]) from None
    head = [
        f"Made by `matrix-login-gateway import` from {imported.source}.",
        f"It accepts the tokens that {imported.software} accepts, and holds the key that verifies them.",
        "Let the gateway's user alone read it, or move the key to a file of its own and name it by secret_file.",
        *(f"REFUSED at start, mend it first: {problem}" for problem in imported.problems),
        "",
        f"What differs from {imported.software}:",
        *(f"- {difference}" for difference in imported.differences),
    ]
    tables: dict[str, dict[str, Any]] = {
        "homeserver": {"url": imported.url, "server_name": imported.server_name},
        "session": {"as_token_file": "as_token"},
        "jwt": imported.jwt,
        **({"identity": imported.identity} if imported.identity else {}),
    }
    notes = {
        "as_token_file": "Make it with `(umask 077 && openssl rand -hex 32 > as_token)`, and register the output of"
        f" `matrix-login-gateway registration` at {imported.software}.",
        **imported.notes,
    }
    lines = [line for text in head for line in _comment(text)]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        for key, value in table.items():
            if key in notes:
                lines += _comment(notes[key])
            lines.append(f"{key} = {_value(value)}")
    text = "\n".join(lines) + "\n"
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigurationError([f"{imported.source}: has half a character (a lone surrogate) in a value"])
    return text


def _comment(text: str) -> list[str]:
    # Parts come from the file: a line break in one would end the comment.
    indent = "#   " if text.startswith("- ") else "# "
    return textwrap.wrap(printable(text), 118, initial_indent="# ", subsequent_indent=indent) or ["#"]


def _value(value: str | int | list[str]) -> str:
    """Return a value as TOML. The `toml` package writes another secret where a backslash is followed by an x."""
    # JSON's text is TOML's but for DEL (TOML 1.0, 'String').
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
