"""`token`: says what the configuration makes of a token, and makes test tokens. Nothing is ever sent anywhere."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.cli.console import config_option, json_option, load_configuration, print_table
from gateway.config import Configuration
from gateway.core import identity, tokens
from gateway.core.keys import MIN_SECRET_BYTES, secret_octets
from gateway.errors import Refused, Unusable


@click.group()
def token() -> None:
    """Look into tokens, and make test tokens."""


@token.command()
@config_option
@json_option
@click.argument("text", metavar="[TOKEN]", required=False)
def explain(path: Path, text: str | None, *, as_json: bool) -> None:
    """Say of each check whether the token passes, and which user it would be.

    Without TOKEN it is read from standard input, where no other user of this machine can see it.
    """
    configuration = load_configuration(path)
    if text is None:
        text = sys.stdin.read().strip()
    checks = explain_token(text, configuration, time.time())
    passed = all(check.passed is not False for check in checks)
    if as_json:
        rows = [{"check": check.name, "passed": check.passed, "says": check.says} for check in checks]
        click.echo(json.dumps({"passed": passed, "checks": rows}, indent=2))
    else:
        print_table(("check", "", ""), [(check.name, _MARKS[check.passed], check.says) for check in checks])
    if not passed:
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an explanation; `passed` is None for a check that an earlier one made impossible."""

    name: str
    passed: bool | None
    says: str


_MARKS = {True: ("pass", "green"), False: ("fail", "bold red"), None: ("-", "dim")}


def explain_token(text: str, configuration: Configuration, now: float) -> list[Check]:
    """Run every check of a login on its own and return what each says; `now` in seconds since the epoch."""
    return _Explanation(configuration, now).of(text)


T = TypeVar("T")


class _Explanation:
    def __init__(self, configuration: Configuration, now: float) -> None:
        settings = configuration.settings
        self._rules = settings.jwt
        self._key_set = configuration.key_set
        self._mapping = identity.Mapping.of(
            settings.identity,
            settings.jwt,
            settings.homeserver.server_name,
            issuer_matters=bool(settings.jwt.issuer),
        )
        self._now = now
        self._checks: list[Check] = []

    def of(self, text: str) -> list[Check]:
        header = self._run("form", lambda: tokens.read_header(text, self._rules.max_token_bytes), _says_header)
        claims = None
        if header is not None:
            claims = self._claims(text, header)
            self._run("typ", lambda: tokens.check_type(header, self._rules))
        if claims is not None:
            self._rest(claims)
        return self._checks

    def _claims(self, text: str, header: dict[str, Any]) -> tokens.Claims | None:
        if self._rules.validate_signature:
            self._run("signature", lambda: tokens.verify_signature(text, header, self._key_set), lambda _: "verified")
        else:
            self._checks.append(Check("signature", None, "not checked: validate_signature is false"))
        return self._run("claims", lambda: tokens.read_claims(tokens.unverified_payload(text)), _says_claims)

    def _rest(self, claims: tokens.Claims) -> None:
        rules, mapping = self._rules, self._mapping
        self._run("iss", lambda: tokens.check_issuer(claims, rules), lambda _: _shown(claims, "iss"))
        self._run("aud", lambda: tokens.check_audience(claims, rules), lambda _: _shown(claims, "aud"))
        self._run("dates", lambda: tokens.check_dates(claims, rules, self._now), lambda _: self._says_dates(claims))
        self._run("jti", lambda: tokens.check_token_id(claims, rules), lambda _: _shown(claims, "jti"))
        self._run("required claims", lambda: identity.check_required_claims(claims, mapping))
        subject = self._run("subject", lambda: identity.find_subject(claims, mapping), str)
        if subject is None:
            return
        name = self._run("template", lambda: identity.fill_template(claims, subject, mapping), str)
        if name is None:
            return
        localpart = self._run("localpart", lambda: identity.fold(name, mapping), str)
        if localpart is None:
            return
        self._run("user id", lambda: identity.check_localpart(localpart, mapping), str)
        self._run("allow and deny", lambda: identity.check_allowed(localpart, mapping.rules))

    def _run(self, name: str, check: Callable[[], T], says: Callable[[T], str] = lambda _: "") -> T | None:
        try:
            result = check()
        except Refused as refused:
            self._checks.append(Check(name, passed=False, says=refused.reason or str(refused.body()["error"])))
            return None
        self._checks.append(Check(name, passed=True, says=says(result)))
        return result

    def _says_dates(self, claims: tokens.Claims) -> str:
        parts = []
        for name, past, ahead in (("iat", "issued {} ago", ""), ("exp", "", "expires in {}")):
            value = claims.get(name)
            if isinstance(value, int | float):
                form = past if value <= self._now else ahead
                if form:
                    parts.append(form.format(f"{abs(value - self._now):.0f} s"))
        return ", ".join(parts) or "none in the token"


def _says_header(header: dict[str, Any]) -> str:
    return ", ".join(f"{name} {header[name]}" for name in ("alg", "typ", "kid") if name in header)


def _says_claims(claims: tokens.Claims) -> str:
    return ", ".join(claims)


def _shown(claims: tokens.Claims, name: str) -> str:
    return json.dumps(claims[name], ensure_ascii=False) if name in claims else "not in the token"


@token.command()
@config_option
@click.option("--sub", "subject", required=True, help="The subject: the value of the subject claim.")
@click.option("--expires-in", default=300, show_default=True, help="Seconds until the token expires.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="One more claim; VALUE may be JSON.")
def mint(path: Path, subject: str, expires_in: int, claims: tuple[str, ...]) -> None:
    """Make a token that this configuration accepts, for tests; needs an HMAC secret in it."""
    configuration = load_configuration(path)
    extra = dict(_parse_claim(claim) for claim in claims)
    click.echo(mint_token(configuration, subject, extra, int(time.time()), expires_in))


def mint_token(
    configuration: Configuration, subject: str, extra: dict[str, Any], now: int, expires_in: int = 300
) -> str:
    """Return a token for `subject` that is valid from `now` on; raises `Unusable` without an HMAC secret."""
    settings = configuration.settings.jwt
    if settings.format not in {"HMAC", "B64HMAC"} or not configuration.secrets:
        raise Unusable(
            f"The configuration holds no HMAC secret (format {settings.format}); only the issuer can sign its tokens."
        )
    algorithm = next(name for name in MIN_SECRET_BYTES if name in settings.algorithm)
    claims: dict[str, Any] = {"iat": now, "nbf": now, "exp": now + expires_in, "jti": f"{subject}-{time.time_ns()}"}
    if settings.issuer:
        claims["iss"] = settings.issuer[0]
    if settings.audience:
        claims["aud"] = settings.audience[0]
    _put(claims, settings.subject_claim, subject)
    header = {"alg": algorithm, "typ": settings.token_type or "JWT"}
    key = OctKey.import_key(secret_octets(settings.format, configuration.secrets[0]))
    return jwt.encode(header, {**claims, **extra}, key, algorithms=[algorithm])


def _put(claims: dict[str, Any], path: str, value: str) -> None:
    *outer, last = path.split(".")
    for name in outer:
        claims = claims.setdefault(name, {})
    claims[last] = value


def _parse_claim(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
