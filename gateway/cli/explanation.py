"""What each check of a login says of a token: the functions of the login, each run on its own.

No token is ever sent anywhere.
"""

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.config import Configuration, ConfiguredIssuer
from gateway.core import identity, jws, tokens
from gateway.core.keys import KeySet
from gateway.errors import Refused
from gateway.fetched_keys import fetch_once

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an explanation; `passed` is None where there was nothing to check.

    An earlier check that failed made it impossible, or the configuration switches it off.
    """

    name: str
    passed: bool | None
    says: str


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
        only_if_there = ", if the homeserver has this user" if identity.is_historical(localpart) else ""
        self._run(
            "user id", lambda: identity.check_localpart(localpart, mapping), lambda user_id: user_id + only_if_there
        )
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
    return issuer.key_set if source is None else asyncio.run(fetch_once(source)).keys


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
