"""`doctor`: asks the live homeserver, the database and the registration file, a line for each part."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import rich_click as click

from gateway.cli.console import config_option, json_option, say
from gateway.cli.session_method import session_method
from gateway.config import Configuration, load
from gateway.doctor import Finding
from gateway.doctor.database import examine_database
from gateway.doctor.homeserver import examine_homeserver
from gateway.doctor.key_sets import examine_key_set
from gateway.errors import ConfigurationError

_STYLES: Final = {"pass": "green", "warn": "yellow", "fail": "bold red"}
# Seconds that the homeserver may take for an answer here; a healthy one takes milliseconds.
_PATIENCE: Final = 10


@click.command()
@config_option
@json_option
@click.option(
    "--registration",
    "registration_path",
    type=click.Path(path_type=Path),
    help="The homeserver's registration file; by default registration.yaml beside the configuration, if it is there.",
)
def doctor(path: Path, registration_path: Path | None, *, as_json: bool) -> None:
    """Ask the live homeserver whether this set-up works; changes nothing. Exit status 1 when a part fails."""
    configuration = load(path)
    findings = asyncio.run(_examine(configuration))
    if configuration.as_token:
        findings += registration_findings(configuration, registration_path)
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            say((finding.verdict, _STYLES[finding.verdict]), f"  {finding.name}: {finding.says}")
            if finding.mend:
                say(f"      {finding.mend}")
    raise SystemExit(int(failed))


async def _examine(configuration: Configuration) -> list[Finding]:
    settings = configuration.settings
    leeway = min(issuer.settings.leeway for issuer in configuration.issuers)
    async with session_method(configuration, call_timeout=_PATIENCE) as (method, homeserver):
        special = None if settings.session.method == "appservice" else method
        denies = all(issuer.mapping.rules.deny for issuer in configuration.issuers)
        found = await examine_homeserver(homeserver, leeway, time.time, special, denies=denies)
    sources = {issuer.key_source: issuer for issuer in configuration.issuers if issuer.key_source is not None}
    found += [await examine_key_set(source, ", ".join(issuer.settings.issuer)) for source, issuer in sources.items()]
    return [*found, await examine_database(settings.database)]


def registration_findings(configuration: Configuration, path: Path | None) -> list[Finding]:
    """Return what the registration file shows; what it says of limits can't be asked of a homeserver."""
    path = path or configuration.path.parent / "registration.yaml"
    if not path.exists():
        says = "can't be asked of the homeserver, and the registration file is not known"
        return [Finding("rate_limited", "warn", says, "name the file by --registration")]
    from gateway.cli.yaml_file import read_yaml  # noqa: PLC0415 - `serve` needs no PyYAML

    try:
        registration = read_yaml(path)
    except ConfigurationError as error:
        return [Finding("registration", "fail", error.problems[0], "name the right file by --registration")]
    return list(_judge(registration, configuration.as_token, configuration.settings.homeserver.server_name))


def _judge(registration: dict[str, Any], as_token: str, server_name: str) -> Iterator[Finding]:
    mend = "give the homeserver the output of `matrix-login-gateway registration`, and restart it"
    if registration.get("rate_limited") is False:
        yield Finding("rate_limited", "pass", "false in the registration file")
    else:
        says = "not false in the registration file: logins of many users run into the homeserver's limits"
        yield Finding("rate_limited", "warn", says, mend)
    problems = list(_problems(registration, as_token, server_name))
    if problems:
        yield Finding("registration", "fail", "; ".join(problems), mend)
    else:
        yield Finding("registration", "pass", "the file fits the configuration")


def _problems(registration: dict[str, Any], as_token: str, server_name: str) -> Iterator[str]:
    if registration.get("as_token") != as_token:
        yield "its as_token is not that of the configuration"
    if "url" not in registration:
        yield "it has no `url`, which must be there, as null"
    elif registration["url"] is not None:
        yield "its `url` is not null, so that the homeserver sends all events there"
    namespaces = registration.get("namespaces")
    users = namespaces.get("users") if isinstance(namespaces, dict) else None
    entries = [entry for entry in users if isinstance(entry, dict)] if isinstance(users, list) else []
    user_ids = [f"@{name}:{server_name}" for name in ("a", "z9", "a.b_c=d/e+f-g")]
    if not any(_covers(entry.get("regex"), user_ids) for entry in entries):
        yield "none of its regexes for users covers every user of the server"
    if any(entry.get("exclusive") is not False for entry in entries):
        yield "a namespace is exclusive, so that nobody else can register users in it"


def _covers(regex: object, user_ids: list[str]) -> bool:
    try:
        return isinstance(regex, str) and all(re.match(regex, user_id) for user_id in user_ids)
    except (re.error, OverflowError, RecursionError):
        return False
