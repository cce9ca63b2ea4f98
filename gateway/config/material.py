"""What the settings stand for once their files are read: secrets, the key set, the as_token, the database."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from gateway.config.files import Files
from gateway.config.key_sources import check_sources, set_of_file
from gateway.config.problems import Report
from gateway.config.tables import Entry, JwtSettings
from gateway.core import hmac_secrets
from gateway.core.keys import KeySet, UnfitKeys, build_key_set
from gateway.issuer_keys import SET_SOURCES
from gateway.storage.database import DatabaseSettings
from gateway.upstream.sessions import SessionSettings
from gateway.web.certificate import Certificate, UnfitCertificate, make_certificate
from gateway.web.listen import parse_listen
from gateway.web.settings import ServerSettings

ALLOW_UNSIGNED: Final = "MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED"
NO_KEYS: Final = KeySet((), frozenset())

# The keys that must be right before the key material can be judged.
_KEY_SETTINGS: Final = (
    *("secret", "key", "secret_file", "format", "algorithm", "allow_weak_secret", "issuers"),
    *SET_SOURCES,
)
_MIN_AS_TOKEN: Final = 32


def read_secrets(entry: Entry, files: Files, report: Report) -> list[str]:
    """Return the key material of an issuer, from the configuration or from its files."""
    keys, settings = entry.place("secret_file"), entry.settings
    if settings.format == "JWKS":
        if settings.jwks_file is None:
            return []
        is_secret = any(name in hmac_secrets.ALGORITHMS for name in settings.algorithm)
        text = files.read_key_set(entry.place("jwks_file"), settings.jwks_file, secret=is_secret)
        return [] if text is None else [text]
    if settings.secret and settings.secret_file:
        report.problem(keys, "is set together with `secret`; keep one of the two")
    if settings.secret:
        files.warn_readable(files.configuration, "holds a secret")
        return settings.secret
    return [text for name in settings.secret_file if (text := files.read_secret(keys, name)) is not None]


def make_key_set(entry: Entry, secrets: list[str], environment: Mapping[str, str], report: Report) -> KeySet:
    """Return the keys that verify the tokens of an issuer; none where they are fetched, or signatures not checked."""
    settings = entry.settings
    if report.is_broken("jwt", *_KEY_SETTINGS):
        return NO_KEYS
    if not _signatures_matter(entry, environment, report) or not check_sources(entry, report):
        return NO_KEYS
    if settings.format == "JWKS":
        return set_of_file(entry, secrets, report)
    if not secrets and settings.secret_file:
        return NO_KEYS  # reported where they were read
    try:
        return build_key_set(
            settings.format, secrets, settings.algorithm, allow_weak_secret=settings.allow_weak_secret
        )
    except UnfitKeys as error:
        for problem in error.problems:
            key = "secret_file" if problem.key == "secret" and settings.secret_file else problem.key
            report.problem(entry.place(key), problem.text, problem.position)
        return NO_KEYS


def _signatures_matter(entry: Entry, environment: Mapping[str, str], report: Report) -> bool:
    if not entry.settings.validate_signature and environment.get(ALLOW_UNSIGNED) != "1":
        report.problem(
            entry.place("validate_signature"),
            "false lets everybody log in as anybody; take it out, or set"
            f" {ALLOW_UNSIGNED}=1 in the environment of a test installation",
        )
    return entry.settings.validate_signature


def check_issuers(jwt: JwtSettings, found: Sequence[Entry], report: Report) -> None:
    """Check that each of several issuers has a name of its own."""
    for entry in found:
        if "" in entry.settings.issuer:  # accounts without an issuer would be its own, whoever's they are
            report.problem((*entry.table, "issuer"), '"" is no issuer; write the `iss` of its tokens')
    if not jwt.issuers:
        return
    for key in ("issuer", "linked_issuers"):
        if getattr(jwt, key):
            report.problem(("jwt", key), "is for one issuer; where there are [[jwt.issuers]], write it there")
    seen: dict[str, Entry] = {}
    for entry in found:
        if not entry.settings.issuer:
            report.problem((*entry.table, "issuer"), "is missing; the `iss` of a token selects its entry by it")
        for name in entry.settings.issuer:
            if name in seen:
                report.problem((*entry.table, "issuer"), f"{name!r} is that of entry {seen[name].table[-1]} too")
            seen.setdefault(name, entry)


def read_as_token(session: SessionSettings, files: Files, report: Report, *, needed: bool) -> str:
    """Return the as_token, from the configuration or from its file."""
    token = session.as_token
    if token is not None and session.as_token_file is not None:
        report.problem(("session", "as_token_file"), "is set together with `as_token`; keep one of the two")
    elif token is not None:
        files.warn_readable(files.configuration, "holds the as_token")
    elif session.as_token_file is not None:
        token = files.read_secret(("session", "as_token_file"), session.as_token_file)
    elif needed and not report.is_broken("session", "as_token", "as_token_file"):
        report.problem(
            ("session",), "there is no as_token; `matrix-login-gateway init` makes one, with its registration"
        )
    key = "as_token_file" if session.as_token is None else "as_token"
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        report.problem(("session", key), "must be one word of printable ASCII characters")
    if token is not None and len(token) < _MIN_AS_TOKEN:
        report.warning(
            ("session", key),
            f"has {len(token)} characters; it is worth the whole server, so use {_MIN_AS_TOKEN} or more",
        )
    return token or ""


def read_certificate(server: ServerSettings, files: Files, report: Report) -> Certificate | None:
    """Return the certificate of the listeners that speak TLS."""
    place, names = ("server", "tls_certificate"), (server.tls_certificate, server.tls_private_key)
    if report.is_broken("server", "listen", "tls_certificate", "tls_private_key"):
        return None
    wanted = any(parse_listen(entry).tls for entry in server.listen)
    if not wanted and names != (None, None):
        report.problem(
            place, 'is for addresses of `listen` with tls: in front, as in "tls:0.0.0.0:8448"; there is none'
        )
    elif wanted and None in names:
        report.problem(
            ("server", "listen"), "has an address with tls: in front; set tls_certificate and tls_private_key"
        )
    if not wanted or server.tls_certificate is None or server.tls_private_key is None:
        return None
    chain = files.read_pem(place, server.tls_certificate)
    key = files.read_pem(("server", "tls_private_key"), server.tls_private_key)
    if chain is None or key is None:
        return None
    files.warn_readable(key[0], "holds the private key of the certificate")
    try:
        return make_certificate(chain, key)
    except UnfitCertificate as error:
        report.problem(("server", error.key), str(error))
        return None


def find_database(settings: DatabaseSettings, files: Files, report: Report) -> DatabaseSettings:
    """Return the settings with the whole paths of their files, and with the password."""
    keys = ("database", "url")
    if report.is_broken(*keys):
        return settings
    if not settings.is_file:
        return _find_server(settings, files, report)
    if settings.password_file is not None:
        report.warning(("database", "password_file"), "does nothing; an SQLite file has no password")
    prefix, _, name = settings.url.partition(":///")
    path = files.resolve(keys, name)
    if path is None:
        return settings
    if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises for one that is too long
        report.problem(keys, f"there is no directory {path.parent}; make it, owned by the gateway's user")
    try:
        return DatabaseSettings.model_validate({**settings.model_dump(), "url": f"{prefix}:///{path}"})
    except ValidationError:
        report.problem(keys, f"a path with a question mark is not accepted: {path}")
        return settings


def _find_server(settings: DatabaseSettings, files: Files, report: Report) -> DatabaseSettings:
    url, password_file = ("database", "url"), ("database", "password_file")
    password = None
    if settings.has_password:
        files.warn_readable(files.configuration, "holds the password of the database")
        if settings.password_file is not None:
            report.problem(password_file, "is set together with a password in `url`; keep one of the two")
    elif settings.password_file is not None:
        password = files.read_secret(password_file, settings.password_file)
        if password == "":
            report.problem(password_file, "the file is empty")
    if settings.may_be_overheard:
        report.warning(url, "the connection may go without encryption; add ?sslmode=verify-full&sslrootcert=FILE")
    found = {name: files.resolve(url, value) for name, value in settings.certificates.items()}
    for path in found.values():
        if path is not None and not os.access(path, os.R_OK):
            report.problem(url, f"{path} can't be read")
    return settings.completed({name: str(path) for name, path in found.items()}, password)
