"""Synapse's `homeserver.yaml`: its listeners, and `jwt_config` in the gateway's words.

What Synapse accepts is read from its behaviour: 120 s of clock difference, exp, nbf and iat optional, `aud` refused
where no audience is configured.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from gateway.cli.imported import ForeignTable, Imported, address, read_table, server_name_of, set_key
from gateway.cli.yaml_file import read_yaml
from gateway.core.keys import ALGORITHMS, Format
from gateway.errors import ConfigurationError

_FORMATS: Final[dict[str, Format]] = {
    name: key_format for key_format in ("HMAC", "ECDSA", "RSA", "EDDSA") for name in ALGORITHMS[key_format]
}

_DIFFERENCES: Final = (
    (
        "In both, exp, nbf and iat are optional and are checked if present. If each of your tokens has exp, set"
        " require_exp = true: a token without it logs in for ever."
    ),
    "A-Z in the subject is folded to a-z, where Synapse refuses a new user.",
    "`_` in front of a name and names of digits only are refused.",
    "An account belongs to the first subject that logs in to it.",
    'Accounts that exist are linked at their next login, unless existing_accounts = "refuse".',
    (
        "Take jwt_config out of homeserver.yaml when the gateway is in place: until then, by Synapse's own address"
        " users log in whom the gateway has locked or denies."
    ),
)


class _JwtConfig(ForeignTable):
    enabled: bool = False
    secret: str
    algorithm: str
    subject_claim: str = "sub"
    display_name_claim: str | None = None
    issuer: str | None = Field(None, min_length=1)
    # Synapse refuses every token where the list is empty.
    audiences: list[str] | None = Field(None, min_length=1)


def read_synapse(paths: Sequence[Path]) -> Imported:
    """Read the file, or several as Synapse does: later ones win; raises `ConfigurationError`."""
    table: dict[str, Any] = {}
    for path in paths:
        table |= read_yaml(path)
    source = paths[-1]
    if "jwt_config" not in table:
        raise ConfigurationError([f"{source}: there is no jwt_config; name the file that has it"])
    theirs = read_table(_JwtConfig, table["jwt_config"], source, "jwt_config")
    key_format = _FORMATS.get(theirs.algorithm)
    if key_format is None:
        known = ", ".join(_FORMATS)
        raise ConfigurationError(
            [f"{source}: jwt_config.algorithm: {theirs.algorithm!r} is not supported; use one of {known}"]
        )
    imported = Imported("Synapse", ", ".join(map(str, paths)), server_name_of(table, source), "", {})
    imported.differences += _DIFFERENCES
    _set_address(imported, table)
    _set_jwt(imported, theirs)
    set_key(imported, key_format, theirs.secret, theirs.algorithm)
    return imported


def _set_jwt(imported: Imported, theirs: _JwtConfig) -> None:
    jwt, notes = imported.jwt, imported.notes
    if not theirs.enabled:
        jwt["enable"] = False
        notes["enable"] = "enabled is false in Synapse, or not set. true switches JWT login on."
    jwt["leeway"] = 120
    notes["leeway"] = "Synapse allows 120 seconds of clock difference; the gateway's default is 60."
    if theirs.issuer is not None:
        jwt["issuer"] = [theirs.issuer]
    if theirs.audiences is not None:
        jwt["audience"] = theirs.audiences
    if theirs.subject_claim != "sub":
        jwt["subject_claim"] = theirs.subject_claim
    if theirs.display_name_claim:
        jwt["display_name_claim"] = theirs.display_name_claim
    jwt["register_user"] = True
    notes["register_user"] = "Synapse makes accounts at JWT logins whatever enable_registration says."
    imported.differences += (
        f"jwt_config.{name}: is not known here, and left out." for name in theirs.model_extra or ()
    )


def _set_address(imported: Imported, table: dict[str, Any]) -> None:
    listeners = table.get("listeners")
    usable = [entry for entry in listeners or () if _serves_clients(entry)] if isinstance(listeners, list) else []
    usable.sort(key=lambda entry: entry.get("tls") is True)
    if not usable:
        imported.url = "http://127.0.0.1:8008"
        imported.notes["url"] = "No listener for clients was found in the file: put its address here."
        return
    listener = usable[0]
    if isinstance(listener.get("path"), str):
        imported.url = f"unix:{listener['path']}"
        return
    hosts = listener.get("bind_addresses") or [listener.get("bind_address") or ""]
    names = [str(host) for host in hosts] if isinstance(hosts, list) else [""]
    local = next((host for host in names if re.match(r"127\.|0\.0\.0\.0$|localhost$|$", host)), names[0])
    imported.url = address(local, listener.get("port"), tls=listener.get("tls") is True)
    if listener.get("x_forwarded") is not True:
        imported.notes["url"] = (
            "Set x_forwarded: true on this listener, or Synapse takes the gateway's address for every client's."
        )


def _serves_clients(listener: object) -> bool:
    if not isinstance(listener, dict) or listener.get("type", "http") != "http":
        return False
    resources = listener.get("resources")
    names: Iterable[object] = (
        name
        for resource in (resources if isinstance(resources, list) else ())
        if isinstance(resource, dict) and isinstance(resource.get("names"), list)
        for name in resource["names"]
    )
    return "client" in names
