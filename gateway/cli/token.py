"""`token`: says what the configuration makes of a token, and makes test tokens."""

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import rich_click as click
from joserfc import jwt

from gateway.cli.console import config_option, json_option, load_configuration, print_table, say, stderr, warn
from gateway.cli.explanation import explain_token
from gateway.config import Configuration, ConfiguredIssuer
from gateway.core import hmac_secrets
from gateway.core.keys import Key
from gateway.errors import Unusable

_MARKS = {True: ("pass", "green"), False: ("fail", "bold red"), None: ("-", "dim")}


@click.group()
def token() -> None:
    """Explain tokens, and make test tokens."""


@token.command()
@config_option
@json_option
@click.argument("text", metavar="[TOKEN]", required=False)
def explain(path: Path, text: str | None, *, as_json: bool) -> None:
    """Show which checks the token passes, and which user it would be.

    Without TOKEN it is read from standard input, where no other user of this machine can see it.
    """
    configuration = load_configuration(path)
    if text is None:
        if sys.stdin.isatty():
            say("Paste the token, then press Enter and Ctrl-D.", to=stderr)
        text = sys.stdin.buffer.read().decode(errors="replace").strip()
    checks = explain_token(text, configuration, time.time())
    passed = all(check.passed is not False for check in checks)
    if as_json:
        listed = [{"check": check.name, "passed": check.passed, "says": check.says} for check in checks]
        click.echo(json.dumps({"passed": passed, "checks": listed}, indent=2))
    else:
        print_table(("check", "", ""), [(check.name, _MARKS[check.passed], check.says) for check in checks])
    if not passed:
        raise SystemExit(1)


@token.command()
@config_option
@click.option("--sub", "subject", required=True, help="The subject: the value of the subject claim.")
@click.option("--issuer", "name", help="Which of several issuers it is from; the first with an HMAC secret else.")
@click.option("--expires-in", default=300, show_default=True, help="Seconds until the token expires.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="One more claim; VALUE may be JSON.")
def mint(path: Path, subject: str, name: str | None, expires_in: int, claims: tuple[str, ...]) -> None:
    """Make a test token with the HMAC secret of the configuration; warns of each check that it fails."""
    configuration = load_configuration(path)
    extra = dict(_parse_claim(claim) for claim in claims)
    now = int(time.time())
    if not configuration.settings.jwt.enable:
        raise Unusable("JWT login is off ([jwt] enable = false), so there is no token that it would take.")
    issuer = _signing_issuer(configuration, name)
    made = mint_token(issuer, subject, extra, now, expires_in)
    click.echo(made)
    for check in explain_token(made, configuration, now):
        if check.passed is False:
            warn(f"the token fails {check.name}: {check.says}")


def _signing_issuer(configuration: Configuration, name: str | None) -> ConfiguredIssuer:
    issuers = [issuer for issuer in configuration.issuers if name is None or name in issuer.settings.issuer]
    if not issuers:
        known = json.dumps(
            [one for issuer in configuration.issuers for one in issuer.settings.issuer], ensure_ascii=False
        )
        raise click.BadParameter(f"no entry has it; there are {known}", param_hint="--issuer")
    return next((issuer for issuer in issuers if _hmac_keys(issuer)), issuers[0])


def _hmac_keys(issuer: ConfiguredIssuer) -> list[tuple[str, Key]]:
    return [(name, key) for name in hmac_secrets.ALGORITHMS for key in issuer.key_set.candidates(name)]


def mint_token(issuer: ConfiguredIssuer, subject: str, extra: dict[str, Any], now: int, expires_in: int = 300) -> str:
    """Return a token for `subject` that is valid from `now` on; raises `Unusable` without an HMAC secret."""
    settings = issuer.settings
    keys = _hmac_keys(issuer)
    if not keys:
        raise Unusable(
            "The configuration verifies tokens with no HMAC secret"
            f' (format = "{settings.format}", validate_signature = {json.dumps(settings.validate_signature)}),'
            " so there is none to sign with."
        )
    algorithm, key = keys[0]
    claims: dict[str, Any] = {"iat": now, "nbf": now, "exp": now + expires_in, "jti": secrets.token_urlsafe(16)}
    if settings.issuer:
        claims["iss"] = settings.issuer[0]
    if settings.audience:
        claims["aud"] = settings.audience[0]
    claims[settings.subject_claim] = subject
    header = {"alg": algorithm, "typ": settings.token_type or "JWT"}
    return jwt.encode(header, {**claims, **extra}, key, algorithms=[algorithm])


def _parse_claim(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--claim")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
