"""What is unwise in settings that work."""

from collections.abc import Sequence

from gateway.config.problems import Report
from gateway.config.tables import Entry, Settings
from gateway.core import hmac_secrets
from gateway.profile import ProfileSettings
from gateway.upstream.sessions.jwt import LOGIN_TYPE


def advise(settings: Settings, found: Sequence[Entry], secrets: Sequence[Sequence[str]], report: Report) -> None:
    """Warn of what lets in more than an operator may think, and of keys that do nothing.

    `secrets` are the key material of each issuer that was found.
    """
    jwt = settings.jwt
    if not jwt.enable:
        report.warning(("jwt", "enable"), "is false; the gateway only passes requests on")
        return
    if LOGIN_TYPE not in jwt.login_types:
        report.warning(
            ("jwt", "login_types"),
            f'lacks "{LOGIN_TYPE}"; such logins go to the homeserver, and to its own JWT login if it has one',
        )
    for entry in found:
        _advise_on(entry, settings.profile, report)
    _advise_on_shared(found, secrets, report)


def _advise_on(entry: Entry, profile: ProfileSettings, report: Report) -> None:
    settings = entry.settings
    if not settings.validate_signature:
        report.warning(entry.place("validate_signature"), "is false; everybody can log in as anybody")
    if not settings.require_exp:
        report.warning(entry.place("require_exp"), "is false; a token without exp logs in for ever")
    if not settings.issuer:
        report.warning(
            entry.place("issuer"), "is empty; any token signed with this key is accepted, whoever issued it"
        )
    if settings.allow_weak_secret:
        need = max((hmac_secrets.MIN_BYTES.get(name, 0) for name in settings.algorithm), default=0)
        report.warning(
            entry.place("allow_weak_secret"), f"is true; {', '.join(settings.algorithm)} needs {need} bytes or more"
        )
    if settings.single_use and not settings.max_token_age and not (settings.require_exp and settings.validate_exp):
        report.warning(
            entry.place("single_use"), "a token that never expires is remembered for ever; set require_exp"
        )
    if settings.single_use_grace and not settings.single_use:
        report.warning(entry.place("single_use_grace"), "does nothing without single_use")
    if settings.email_claim:
        report.warning(
            entry.place("email_claim"),
            "is not used; homeservers let only an administrator, or users who confirm it, add an e-mail address",
        )
    if settings.avatar_claim and profile.avatar != "never" and not profile.avatar_hosts:
        report.warning(
            entry.place("avatar_claim"),
            "images are fetched from any public address that it names; name your own hosts in [profile] avatar_hosts",
        )


def _advise_on_shared(found: Sequence[Entry], secrets: Sequence[Sequence[str]], report: Report) -> None:
    """Warn of an HMAC secret that two issuers have: each can sign as the other."""
    holders: dict[str, Entry] = {}
    for entry, own in zip(found, secrets, strict=True):
        for secret in own if entry.settings.format in {"HMAC", "B64HMAC"} else ():
            other = holders.setdefault(secret, entry)
            if other is not entry:
                report.warning(
                    entry.table,
                    f"has a secret of entry {other.table[-1]} too; each of the two can log in the other's users",
                )
