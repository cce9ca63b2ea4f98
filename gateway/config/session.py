"""What `[session]` has to hold for its method, and what belongs to another one."""

from collections.abc import Sequence
from typing import Final

from joserfc.jwk import OctKey

from gateway.config.files import Files
from gateway.config.material import read_as_token
from gateway.config.problems import Report, name_of
from gateway.config.tables import Entry, Settings
from gateway.core.hmac_secrets import MIN_BYTES
from gateway.core.keys import KeySet
from gateway.upstream.sessions import SessionSettings

# What each method needs beside its secret, with why.
_NEEDED: Final = {
    "mas": {
        "mas_url": "the address of the admin API of Matrix Authentication Service",
        "mas_client_id": "the client that its policy names in admin_clients",
    },
}
_SECRETS: Final = {
    "jwt": ("jwt_secret", "the secret that the homeserver's own JWT login has"),
    "mas": ("mas_client_secret", "the secret of the client mas_client_id"),
}


def read_session(settings: Settings, found: Sequence[Entry], files: Files, report: Report) -> tuple[str, str]:
    """Return the as_token and the secret of the method, "" for what there is none of."""
    session = settings.session
    known = not report.is_broken("session", "method")
    needed = settings.jwt.enable and known
    as_token = read_as_token(session, files, report, needed=needed and session.method == "appservice")
    secret = _read_secret(session, files, report, needed=needed)
    if known:
        _check_keys(session, report, needed=needed)
        if not (as_token or report.is_broken("session", "as_token", "as_token_file")):
            for entry in found if needed and session.method != "appservice" else ():
                _check_without_as_token(entry, settings, report)
    return as_token, secret


def check_secret_is_own(
    session: SessionSettings, secret: str, found: Sequence[Entry], key_sets: Sequence[KeySet], report: Report
) -> None:
    """Refuse a secret of the homeserver's JWT login that identity tokens are signed with: they log in there too.

    HMAC fills a key up with zeros (RFC 2104 2), so that these make no other key.
    """
    if session.method != "jwt" or not secret:
        return
    octets = secret.encode().rstrip(b"\0")
    for entry, key_set in zip(found, key_sets, strict=True):
        keys = [verification.key for verification in key_set.keys]
        if any(isinstance(key, OctKey) and key.raw_value.rstrip(b"\0") == octets for key in keys):
            report.problem(
                ("session", "jwt_secret" if session.jwt_secret_file is None else "jwt_secret_file"),
                f"is a key that verifies the tokens of {name_of(entry.table)} too, so that they log in at the"
                " homeserver past every rule here; give the homeserver's JWT login a secret of its own:"
                " `openssl rand -hex 32`",
            )


def _check_keys(session: SessionSettings, report: Report, *, needed: bool) -> None:
    for key in sorted(session.model_fields_set):
        owner = key.partition("_")[0]
        if owner in _SECRETS and owner != session.method:
            report.problem(("session", key), f'is for method = "{owner}"; the method here is "{session.method}"')
    for key, what in _NEEDED.get(session.method, {}).items() if needed else ():
        if not getattr(session, key) and not report.is_broken("session", key):
            report.problem(("session", key), f'is missing; method = "{session.method}" needs it: {what}')


def _check_without_as_token(entry: Entry, settings: Settings, report: Report) -> None:
    """Refuse and warn of what only an application service can do."""
    if settings.session.method == "jwt" and entry.identity.existing_accounts == "refuse":
        own = entry.table if entry.table != ("jwt",) else ()
        report.problem(
            (*own, "identity", "existing_accounts"),
            '"refuse" with method = "jwt" needs an as_token in [session]: without, an account whose profile is empty'
            " looks like none",
        )
    if settings.session.method == "jwt" and not entry.settings.register_user:
        report.warning(
            entry.place("register_user"),
            "is false, and without an as_token in [session] the homeserver makes an account again that it has lost",
        )
    if entry.settings.avatar_claim and settings.profile.avatar != "never":
        report.warning(entry.place("avatar_claim"), "does nothing without an as_token in [session]")
    if entry.settings.display_name_claim and settings.profile.display_name != "never":
        if settings.session.method == "mas":
            report.warning(entry.place("display_name_claim"), "does nothing without an as_token in [session]")
        elif not settings.session.jwt_display_name_claim:
            report.warning(
                entry.place("display_name_claim"),
                "does nothing without an as_token or jwt_display_name_claim in [session]",
            )


def _read_secret(session: SessionSettings, files: Files, report: Report, *, needed: bool) -> str:
    """Return the secret of the method, from the configuration or from its file."""
    if session.method not in _SECRETS:
        return ""
    key, what = _SECRETS[session.method]
    secret, file = getattr(session, key), getattr(session, f"{key}_file")
    place = ("session", key if file is None else f"{key}_file")
    if secret is not None and file is not None:
        report.problem(place, f"is set together with `{key}`; keep one of the two")
        return ""
    if secret is not None:
        files.warn_readable(files.configuration, "holds a secret")
    elif file is not None:
        secret = files.read_secret(place, file)
    elif needed and not report.is_broken("session", key, f"{key}_file"):
        report.problem(("session",), f'there is no {key}; method = "{session.method}" needs {what}')
    if secret == "":
        report.problem(place, "it is empty")
    elif secret is not None and session.method == "jwt":
        _warn_short(place, secret, session.jwt_algorithm, report)
    return secret or ""


def _warn_short(place: tuple[str, ...], secret: str, algorithm: str, report: Report) -> None:
    size, need = len(secret.encode()), MIN_BYTES[algorithm]
    if size < need:
        report.warning(
            place,
            f"{size} bytes are short for {algorithm}; who guesses the secret logs in as anybody, so give the"
            f" homeserver one of {need} or more",
        )
