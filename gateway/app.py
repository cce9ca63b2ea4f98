"""The composition root: builds every part from the configuration, runs it, and exchanges parts when it reloads."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from gateway.access_log import AccessLog
from gateway.attempts import Attempts
from gateway.config import Configuration, Settings
from gateway.errors import ConfigurationError, Refused, Unusable
from gateway.fetched_keys import exchange
from gateway.http.parser import check_parsers
from gateway.logs import Level, Logger, get_logger, take_library_logs
from gateway.metrics import Live, Metrics
from gateway.parts import Lasting, Parts, build
from gateway.provision import Provision
from gateway.storage.accounts import Accounts
from gateway.storage.audit import Audit
from gateway.storage.database import open_database
from gateway.storage.last_seen import LastSeen
from gateway.systemd import HandedOver, Supervisor, handed_over
from gateway.tasks import Background
from gateway.upstream.answers import HomeserverAnswered
from gateway.web.admin import Health
from gateway.web.entrances import Entrances, Prepared
from gateway.web.listeners import PublicServer

# What a reload can't change, as (table, key); a key of "" is the whole table.
AT_START: Final = (
    ("server", "reuse_port"),
    ("database", ""),
    ("log", "format"),
    ("log", "access"),
)
# How often it is looked for registrations that broke off, in seconds.
_SETTLE: Final = 30
_NOTHING: Final = HandedOver()


async def serve(configuration: Configuration) -> None:
    """Run the gateway until SIGTERM or SIGINT, reload at SIGHUP; raises `Unusable` when it can't start."""
    settings = configuration.settings
    level = Level(settings.log.level)
    log = get_logger(settings.log, level=level)
    take_library_logs(log)
    asked: set[signal.Signals] = set()
    awake = asyncio.Event()

    def ask(number: signal.Signals) -> None:
        if number is not signal.SIGHUP and asked - {signal.SIGHUP}:
            _end_now(number)
        asked.add(number)
        awake.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ask, number)
    _allow_open_files()
    _warn(configuration, log)
    supervisor, handed, access = Supervisor(os.environ), handed_over(os.environ), _access_log(settings)
    with supervisor.watched():
        async with running(configuration, log, handed=handed, access=access) as gateway:
            log.info("listening", addresses=" ".join(gateway.addresses), homeserver=settings.homeserver.url)
            gateway.check_session_method()
            supervisor.ready(_where(gateway))
            while True:
                await awake.wait()
                if asked != {signal.SIGHUP}:
                    break
                asked.clear()
                awake.clear()
                supervisor.reloading()
                problem = await gateway.reload()
                level.use(gateway.configuration.settings.log.level)
                where = _where(gateway)
                supervisor.ready(f"{where}, but as before the last reload: {problem}" if problem else where)
            log.info("stopping")
            supervisor.stopping("Lets open requests finish")
    log.info("stopped")


def _where(gateway: "Running") -> str:
    return f"Listens on {' '.join(gateway.addresses)}"


def _end_now(number: signal.Signals) -> None:
    """End as if the signal had not been handled: nothing is waited for, and the database is safe at any moment."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


class Running:
    """A gateway that listens on `addresses`."""

    def __init__(self, lasting: Lasting, parts: Parts, handed: HandedOver) -> None:
        self._lasting = lasting
        self._parts = parts
        self._server = PublicServer(parts.router)
        parts.pool.free_files = self._server.close_idle
        self._loop = asyncio.get_running_loop()
        self.health = Health(
            lasting.database,
            parts.homeserver,
            parts.session_method.asked,
            lasting.metrics,
            self._key_sets,
            lasting.background,
        )
        self.entrances = Entrances(self._server, self.health, lasting.background, handed)

    @property
    def configuration(self) -> Configuration:
        """What it runs with."""
        return self._parts.configuration

    @property
    def addresses(self) -> Sequence[str]:
        """Where clients reach it."""
        return self.entrances.addresses

    async def reload(self) -> str:
        """Read the configuration and its files again and use them from the next request on.

        Requests at work end as they began. With a configuration that can't be used everything stays as it is; what is
        wrong with it is returned.
        """
        before, log = self._parts, self._lasting.log
        try:
            configuration = await asyncio.to_thread(before.configuration.read_again)
            prepared = await self._prepared(configuration)
        except (ConfigurationError, Unusable) as error:
            hint = "the configuration from before stays in use"
            problems = getattr(error, "problems", [str(error)])
            log.error("reload_failed", problems=problems, hint=hint)  # noqa: TRY400 - a trace would say less
            return str(error)
        _warn(configuration, log)
        parts = build(configuration, self._lasting, before)
        await exchange(before.fetched, parts.fetched)
        self._parts = parts
        self._server.exchange_router(parts.router)
        parts.pool.free_files = self._server.close_idle
        self.health.use(parts.homeserver, parts.session_method.asked)
        await self.entrances.use(prepared)
        if parts.pool is not before.pool:
            await before.pool.close()
        if parts.session_method is not before.session_method:
            await before.session_method.close()
        self.check_session_method()
        log.info("reloaded", after_restart=" ".join(_changed_at_start(before.configuration, configuration)))
        return ""

    async def listen(self) -> None:
        """Begin to serve; raises `Unusable`."""
        await self.entrances.use(await self._prepared(self.configuration))

    def hurry(self) -> None:
        """Begin no further work of our own: the gateway stops."""
        self._lasting.last_seen.hurry()
        self._lasting.attempts.audit.hurry()
        for keys in self._parts.fetched.values():
            keys.stop()

    def check_session_method(self) -> None:
        """Have it found out, later, what homeserver it is, and the log say where sessions can't be made before it."""
        self._lasting.background.leave(self._parts.session_method.check(), "session_method")

    @property
    def provision(self) -> Provision:
        """What provides accounts."""
        return self._parts.provision

    async def settle(self) -> None:
        """Settle registrations that broke off, in time, until the gateway stops."""
        while True:
            if self._parts.refuses_existing_accounts:
                try:
                    await self.provision.settle()
                except (Refused, HomeserverAnswered) as error:
                    self._lasting.log.info("registrations_not_settled", reason=str(error))
            await asyncio.sleep(_SETTLE)

    def live(self) -> Live:
        """Return what the metrics say of this moment."""
        busy, idle = self._parts.pool.connections
        now = self._lasting.now()
        fetched = {issuer: status.fetched_at for issuer, status in self._parts.key_sets}
        ages = {issuer: now - at for issuer, at in fetched.items() if at is not None}
        tasks = len(asyncio.all_tasks(self._loop))
        return Live(self._server.at_work, len(self._server.connections), busy, idle, ages, tasks)

    def _key_sets(self) -> str:
        found = list(self._parts.key_sets)
        wrong = [f"{issuer}: {status.error or 'not fetched yet'}" for issuer, status in found if not status.usable]
        return "; ".join(wrong) or ("ok" if found else "")

    async def close(self) -> None:
        """End what the current parts hold."""
        await self._parts.pool.close()
        await self._parts.session_method.close()

    async def _prepared(self, configuration: Configuration) -> Prepared:
        return await self.entrances.prepare(configuration.settings.server, configuration.certificate)


@asynccontextmanager
async def running(
    configuration: Configuration,
    log: Logger,
    now: Callable[[], float] = time.time,
    handed: HandedOver = _NOTHING,
    access: AccessLog | None = None,
) -> AsyncIterator[Running]:
    """Run the gateway while the context is open; `now` gives seconds since the epoch."""
    check_parsers()
    settings, metrics = configuration.settings, Metrics()
    async with AsyncExitStack() as stack:
        if access is not None:
            stack.callback(access.flush)
        database = await stack.enter_async_context(open_database(settings.database, timed=metrics.database_use))
        background = Background(log)
        last_seen = LastSeen(Accounts(database), background)
        audit = Audit(database, background, log, settings.database.audit_retention)
        attempts = Attempts(audit, metrics, now, log)
        lasting = Lasting(log, now, database, background, last_seen, attempts, metrics, access, bool(handed.admin))
        parts = build(configuration, lasting, None)
        gateway = Running(lasting, parts, handed)
        metrics.live = gateway.live
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(background.close, 5)
        stack.push_async_callback(gateway.entrances.close_health)
        stack.callback(gateway.hurry)
        background.leave(audit.keep(now), "audit")
        stack.callback(background.share(gateway.settle(), "settle").cancel)
        await exchange({}, parts.fetched)
        stack.push_async_callback(gateway.entrances.close)
        await gateway.listen()
        stack.callback(gateway.health.stop)
        yield gateway


def _allow_open_files() -> None:
    # Every waiting /sync takes two sockets, and the usual limit is 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _access_log(settings: Settings) -> AccessLog | None:
    return AccessLog(settings.log, sys.stderr, time.time) if settings.log.access else None


def _warn(configuration: Configuration, log: Logger) -> None:
    for warning in configuration.warnings_at(time.time()):
        log.warning("configuration", warning=warning)


def _changed_at_start(before: Configuration, after: Configuration) -> list[str]:
    """Return the names of what changed and only a restart brings into use."""
    changed = []
    for table, key in AT_START:
        old, new = getattr(before.settings, table), getattr(after.settings, table)
        if (getattr(old, key) != getattr(new, key)) if key else old != new:
            changed.append(".".join(filter(None, (table, key))))
    return changed
