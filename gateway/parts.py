"""What a configuration becomes: every part, wired to the others. A reload builds them anew and exchanges them all."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gateway.access_log import AccessLog
from gateway.attempts import Attempts
from gateway.config import ALLOW_UNSIGNED, Configuration, ConfiguredIssuer, Settings
from gateway.fetched_keys import FetchedKeys, KeyStatus
from gateway.issuer_keys import FixedKeys, KeySource
from gateway.issuers import Issuer, Issuers, issuer_name
from gateway.limits import Limits
from gateway.logs import Logger
from gateway.metrics import Metrics
from gateway.profile import Profile
from gateway.provision import Provision
from gateway.session_method import ConfiguredMethod, build_session_method
from gateway.sign_in import SignIn
from gateway.storage.accounts import Accounts
from gateway.storage.avatars import Avatars
from gateway.storage.database import Database
from gateway.storage.key_sets import KeySets
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import UsedTokens
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.images import Images
from gateway.upstream.pool import Pool
from gateway.web.login import Login
from gateway.web.logout import Logout
from gateway.web.observed import AccessLines, Observers
from gateway.web.relay import Relayer
from gateway.web.request_ids import RequestIds
from gateway.web.router import Router
from gateway.web.routes import routes


@dataclass(frozen=True, slots=True)
class Lasting:
    """What stays as it is over every reload; `now` gives seconds since the epoch."""

    log: Logger
    now: Callable[[], float]
    database: Database
    background: Background
    last_seen: LastSeen
    attempts: Attempts
    metrics: Metrics
    access: AccessLog | None
    admin_handed: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reload exchanges, all of it at once."""

    configuration: Configuration
    pool: Pool
    homeserver: Homeserver
    limits: Limits
    images: Images
    session_method: ConfiguredMethod
    provision: Provision
    fetched: Mapping[KeySource, FetchedKeys]
    router: Router

    @property
    def refuses_existing_accounts(self) -> bool:
        """Whether an issuer's users get no account that was there before."""
        rules = (issuer.account_rules for issuer in self.configuration.issuers)
        return any(each.existing_accounts == "refuse" for each in rules)

    @property
    def key_sets(self) -> Iterator[tuple[str, KeyStatus]]:
        """How it stands with the key sets that are fetched, by the name of the issuer."""
        for issuer in self.configuration.issuers:
            if issuer.key_source is not None:
                yield issuer_name(issuer.settings), self.fetched[issuer.key_source].status


def build(configuration: Configuration, lasting: Lasting, before: Parts | None) -> Parts:
    """Build the parts for a configuration; those of `before` that it doesn't change stay, with what they know."""
    settings, log = configuration.settings, lasting.log
    changed = _changed(configuration, before.configuration) if before else set(Settings.model_fields)
    pool = Pool(settings.homeserver) if before is None or "homeserver" in changed else before.pool
    limits = Limits(settings.limits) if before is None or "limits" in changed else before.limits
    images = Images(settings.profile) if before is None or "profile" in changed else before.images
    homeserver = Homeserver(pool, settings.homeserver.server_name, configuration.as_token)
    if before is None or changed & {"homeserver", "session", "jwt", "profile"}:
        method = build_session_method(
            configuration, homeserver, lasting.database, lasting.background, lasting.now, log
        )
    else:
        method = before.session_method
    avatars = Avatars(lasting.database)
    fetched = _fetched(configuration, lasting, before.fetched if before else {})
    accounts = Accounts(lasting.database)
    provision = Provision(accounts, method.method, homeserver, lasting.now, log, lasting.metrics)
    sign_in = SignIn(
        issuers=Issuers(
            [_issuer(issuer, fetched, log) for issuer in configuration.issuers], by_name=bool(settings.jwt.issuers)
        ),
        limits=limits,
        accounts=accounts,
        last_seen=lasting.last_seen,
        used_tokens=UsedTokens(lasting.database, lasting.background),
        provision=provision,
        profile=Profile(configuration.profile, homeserver, images, avatars, lasting.background, log),
        attempts=lasting.attempts,
        now=lasting.now,
        log=log,
        metrics=lasting.metrics,
    )
    router = _router(configuration, sign_in, pool, method, lasting)
    return Parts(configuration, pool, homeserver, limits, images, method, provision, fetched, router)


def _changed(configuration: Configuration, before: Configuration) -> set[str]:
    """Return the names of the tables that are not as before; secrets in files belong to theirs."""
    new, old = configuration.settings, before.settings
    changed = {name for name in Settings.model_fields if getattr(new, name) != getattr(old, name)}
    secrets = (configuration.as_token, configuration.session_secret)
    return changed if secrets == (before.as_token, before.session_secret) else {*changed, "session"}


def _fetched(
    configuration: Configuration, lasting: Lasting, known: Mapping[KeySource, FetchedKeys]
) -> dict[KeySource, FetchedKeys]:
    """Return the keys of each source that is fetched; those that are known stay, and issuers may share a source."""
    stored = KeySets(lasting.database)
    return {
        source: known.get(source) or FetchedKeys(source, stored, lasting.background, lasting.now, lasting.log)
        for issuer in configuration.issuers
        if (source := issuer.key_source) is not None
    }


def _issuer(configured: ConfiguredIssuer, fetched: Mapping[KeySource, FetchedKeys], log: Logger) -> Issuer:
    if not configured.settings.validate_signature:
        log.warning("signatures_are_not_checked", allowed_by=ALLOW_UNSIGNED)
    source = configured.key_source
    keys = FixedKeys(configured.key_set) if source is None else fetched[source]
    return Issuer(keys, configured.settings, configured.mapping, configured.account_rules)


def _router(
    configuration: Configuration, sign_in: SignIn, pool: Pool, method: ConfiguredMethod, lasting: Lasting
) -> Router:
    settings, log = configuration.settings, lasting.log
    forward = settings.server.forward_request_id
    jwt = settings.jwt
    login = Login(
        sign_in=sign_in,
        background=lasting.background,
        log=log,
        login_types=jwt.login_types if jwt.enable else [],
        max_password_bytes=sign_in.issuers.max_token_bytes if jwt.enable and jwt.accept_in_password else 0,
        trusted_proxies=settings.server.trusted_proxies,
        max_login_body=settings.server.max_login_body,
        body_timeout=settings.server.head_timeout,
        forward_request_id=forward,
        known=sign_in.provision.homeserver.known,
    )
    access = AccessLines(lasting.access, settings.server.trusted_proxies) if lasting.access else None
    traffic = lasting.metrics.traffic if settings.server.admin_listen or lasting.admin_handed else None
    return Router(
        settings.server,
        Relayer(pool, lasting.background, settings.server.via, forward_request_id=forward),
        routes(login, Logout(method.kept, log) if method.kept else None),
        observers=Observers(log, RequestIds(), traffic, access),
        background=lasting.background,
    )
