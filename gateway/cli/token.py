"""`token`: says what the configuration makes of a token, and makes test tokens. No token is ever sent anywhere."""

import asyncio
import functools
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from joserfc import jwt

from gateway.cli.console import config_option, json_option, load_configuration, print_table, say, stderr, warn
from gateway.config import Configuration, ConfiguredIssuer
from gateway.core import hmac_secrets, identity, jws, tokens
from gateway.core.keys import Key, KeySet
from gateway.errors import Refused, Unusable
from gateway.fetched_keys import fetch_once


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


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an explanation; `passed` is None where there was nothing to check.

    An earlier check that failed made it impossible, or the configuration switches it off.
    """

    name: str
    passed: bool | None
    says: str


_MARKS = {True: ("pass", "green"), False: ("fail", "bold red"), None: ("-", "dim")}
# In the order of a login, which ends at the first that fails.
_CHECKS = (
    "form",
    "entry",
    "signature",
    "claims",
    "typ",
    "iss",
    "aud",
    "dates",
    "jti",
    "subject",
    "required claims",
    "template",
    "lowercase",
    "server name",
    "escape",
    "user id",
    "allow and deny",
)


def explain_token(text: str, configuration: Configuration, now: float) -> list[Check]:
    """Run every check of a login on its own and return what each says; `now` in seconds since the epoch."""
    done = _Explanation(configuration, now).of(text)
    names = [name for name in _CHECKS if name != "entry" or configuration.settings.jwt.issuers]
    return [done.get(name, Check(name, None, "")) for name in names]


T = TypeVar("T")


class _Explanation:
    def __init__(self, configuration: Configuration, now: float) -> None:
        self._configuration = configuration
        self._rules, self._mapping = configuration.issuers[0].settings, configuration.issuers[0].mapping
        self._now = now
        self._done: dict[str, Check] = {}

    def of(self, text: str) -> dict[str, Check]:
        limit = max(issuer.settings.max_token_bytes for issuer in self._configuration.issuers)
        header = self._run("form", lambda: jws.read_header(text, limit), _says_header)
        issuer = None if header is None else self._chosen(text)
        if header is None or issuer is None:
            return self._done
        self._rules, self._mapping = issuer.settings, issuer.mapping
        claims = self._claims(text, header, issuer)
        typ = f"found {_shown(header, 'typ')}; token_type is {json.dumps(self._rules.token_type)}"
        self._run("typ", lambda: tokens.check_type(header, self._rules), seen=typ)
        if claims is not None:
            self._claim_checks(claims)
            self._identity_checks(claims)
        return self._done

    def _chosen(self, text: str) -> ConfiguredIssuer | None:
        issuers = self._configuration.issuers
        if not self._configuration.settings.jwt.issuers:
            return issuers[0]
        by_name = {name: issuer for issuer in issuers for name in issuer.settings.issuer}
        return self._run(
            "entry",
            lambda: tokens.choose_issuer(text, by_name),
            lambda issuer: f"[[jwt.issuers]] {issuers.index(issuer) + 1}",
            f"there are {_json(list(by_name))}",
        )

    def _claims(self, text: str, header: dict[str, Any], issuer: ConfiguredIssuer) -> tokens.Claims | None:
        if self._rules.validate_signature:
            self._run("signature", lambda: jws.verify_signature(text, header, _keys(issuer)), lambda _: "verified")
        else:
            self._done["signature"] = Check("signature", None, "not checked: validate_signature is false")
        return self._run("claims", lambda: tokens.read_claims(jws.unverified_payload(text)), ", ".join)

    def _claim_checks(self, claims: tokens.Claims) -> None:
        rules = self._rules
        iss, aud, jti = (_shown(claims, name) for name in ("iss", "aud", "jti"))
        self._run(
            "iss",
            lambda: tokens.check_issuer(claims, rules),
            lambda _: iss,
            f"found {iss}; issuer is {_json(rules.issuer)}",
        )
        self._run(
            "aud",
            lambda: tokens.check_audience(claims, rules),
            lambda _: aud,
            f"found {aud}; audience is {_json(rules.audience)}",
        )
        self._run(
            "dates",
            lambda: tokens.check_dates(claims, rules, self._now),
            lambda _: self._says_dates(claims),
            f"{_dates(claims)}; now is {self._now:.0f}, leeway is {rules.leeway}",
        )
        self._run("jti", lambda: tokens.check_token_id(claims, rules), lambda _: jti, f"found {jti}")

    def _identity_checks(self, claims: tokens.Claims) -> None:
        mapping = self._mapping
        place = f"subject_claim is {_json(mapping.claims.subject_claim)}"
        subject = self._run("subject", lambda: identity.find_subject(claims, mapping), str, place)
        self._run("required claims", lambda: identity.check_required_claims(claims, mapping))
        if subject is None:
            return
        name = self._run("template", lambda: identity.fill_template(claims, subject, mapping), str)
        steps = (
            ("lowercase", identity.lowercase, mapping.rules.lowercase),
            ("server name", identity.strip_server_name, True),
            ("escape", identity.escape, mapping.rules.escape),
        )
        for step, change, on in steps:
            if name is not None:
                name = self._run(step, functools.partial(change, name, mapping), str)
                if not on:
                    self._done[step] = Check(step, None, "off")
        if name is None:
            return
        localpart = name
        self._run("user id", lambda: identity.check_localpart(localpart, mapping), str)
        self._run("allow and deny", lambda: identity.check_allowed(localpart, mapping.rules))

    def _run(
        self, name: str, check: Callable[[], T], says: Callable[[T], str] = lambda _: "", seen: str = ""
    ) -> T | None:
        """Run a check and note what it says: of one that fails the answer, the reason and what was `seen`."""
        try:
            result = check()
        except Refused as refused:
            reason = refused.reason if refused.reason != refused.detail else ""
            parts = (str(refused.body()["error"]), reason, seen)
            self._done[name] = Check(name, passed=False, says="; ".join(part for part in parts if part))
            return None
        self._done[name] = Check(name, passed=True, says=says(result))
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


def _dates(claims: tokens.Claims) -> str:
    return ", ".join(f"{name} is {_json(claims[name])}" for name in ("exp", "nbf", "iat") if name in claims)


def _shown(members: dict[str, Any], name: str) -> str:
    return _json(members[name]) if name in members else "none"


def _keys(issuer: ConfiguredIssuer) -> KeySet:
    source = issuer.key_source
    return issuer.key_set if source is None else asyncio.run(fetch_once(source))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


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
        names = [known for issuer in configuration.issuers for known in issuer.settings.issuer]
        raise click.BadParameter(f"no entry has it; there are {_json(names)}", param_hint="--issuer")
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
            f" (format = {_json(settings.format)}, validate_signature = {_json(settings.validate_signature)}),"
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
