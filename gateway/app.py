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

from aiohttp import web

from gateway.access_log import AccessLog
from gateway.attempts import Attempts
from gateway.config import Configuration, Settings
from gateway.errors import ConfigurationError
from gateway.http1 import idle_since
from gateway.logs import Logger, get_logger, take_library_logs
from gateway.metrics import Live, Metrics
from gateway.parts import Lasting, Parts, build, exchange
from gateway.storage.accounts import Accounts
from gateway.storage.audit import Audit
from gateway.storage.database import open_database
from gateway.storage.last_seen import LastSeen
from gateway.systemd import HandedOver, Supervisor, handed_over
from gateway.tasks import Background
from gateway.web.admin import Health
from gateway.web.listeners import Places, sites
from gateway.web.server import Server, listening

# What a reload can't change, as (table, key); a key of "" is the whole table.
AT_START: Final = (
    ("server", "listen"),
    ("server", "admin_listen"),
    ("server", "reuse_port"),
    ("server", "drain_timeout"),
    ("database", ""),
    ("log", ""),
)
_NOTHING: Final = HandedOver()


async def serve(configuration: Configuration) -> None:
    """Run the gateway until SIGTERM or SIGINT, reload at SIGHUP; raises `Unusable` when it can't start."""
    settings = configuration.settings
    log = get_logger(settings.log)
    take_library_logs(log)
    asked: set[signal.Signals] = set()
    awake = asyncio.Event()

    def ask(number: signal.Signals) -> None:
        if number is not signal.SIGHUP and asked - {signal.SIGHUP}:
            end_now(number)
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
            where = f"Listens on {' '.join(gateway.addresses)}"
            log.info("listening", addresses=" ".join(gateway.addresses), homeserver=settings.homeserver.url)
            supervisor.ready(where)
            while True:
                await awake.wait()
                if asked != {signal.SIGHUP}:
                    break
                asked.clear()
                awake.clear()
                supervisor.reloading()
                problem = await gateway.reload()
                supervisor.ready(f"{where}, but as before the last reload: {problem}" if problem else where)
            log.info("stopping")
            supervisor.stopping("Lets open requests finish")
    log.info("stopped")


def end_now(number: signal.Signals) -> None:
    """End as if the signal had not been handled: nothing is waited for, and the database is safe at any moment."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


class Running:
    """A gateway that listens on `addresses`."""

    def __init__(self, lasting: Lasting, parts: Parts, server: Server, health: Health) -> None:
        self.addresses: Sequence[str] = ()
        self._lasting = lasting
        self._parts = parts
        self._server = server
        self._health = health

    async def reload(self) -> str:
        """Read the configuration and its files again and use them from the next request on.

        Requests at work end as they began. With a configuration that can't be used everything stays as it is; what is
        wrong with it is returned.
        """
        before, log = self._parts, self._lasting.log
        try:
            configuration = await asyncio.to_thread(before.configuration.read_again)
        except ConfigurationError as error:
            hint = "the configuration from before stays in use"
            log.error("reload_failed", problems=error.problems, hint=hint)  # noqa: TRY400 - a trace would say less
            return str(error)
        _warn(configuration, log)
        parts = build(configuration, self._lasting, before)
        await exchange(before.fetched, parts.fetched)
        self._parts = parts
        self._server.use(parts.gateway)
        self._health.homeserver = parts.homeserver
        if parts.pool is not before.pool:
            await before.pool.close()
        log.info("reloaded", after_restart=" ".join(_changed_at_start(before.configuration, configuration)))
        return ""

    def hurry(self) -> None:
        """Begin no further work of our own: the gateway stops."""
        self._lasting.last_seen.hurry()
        self._lasting.attempts.audit.hurry()
        for keys in self._parts.fetched.values():
            keys.stop()

    def live(self) -> Live:
        """Return what the metrics say of this moment."""
        connections = self._server.connections
        busy, idle = self._parts.pool.connections
        at_work = sum(idle_since(connection) is None for connection in connections)
        now = self._lasting.now()
        fetched = {issuer: status.fetched_at for issuer, status in self._parts.key_sets}
        ages = {issuer: now - at for issuer, at in fetched.items() if at is not None}
        return Live(at_work, len(connections), busy, idle, ages)

    def key_sets(self) -> str:
        """Say "ok", or what is wrong with the key sets that are fetched; "" where none is."""
        found = list(self._parts.key_sets)
        wrong = [f"{issuer}: {status.error or 'not fetched yet'}" for issuer, status in found if not status.usable]
        return "; ".join(wrong) or ("ok" if found else "")

    async def close(self) -> None:
        """End what the current parts hold."""
        await self._parts.pool.close()


@asynccontextmanager
async def running(
    configuration: Configuration,
    log: Logger,
    now: Callable[[], float] = time.time,
    handed: HandedOver = _NOTHING,
    access: AccessLog | None = None,
) -> AsyncIterator[Running]:
    """Run the gateway while the context is open; `now` gives seconds since the epoch."""
    settings, metrics = configuration.settings, Metrics()
    async with AsyncExitStack() as stack:
        if access is not None:
            stack.callback(access.flush)
        database = await stack.enter_async_context(open_database(settings.database, timed=metrics.database_use))
        background = Background(log)
        last_seen = LastSeen(Accounts(database), background)
        audit = Audit(database, background, log, settings.database.audit_retention)
        traffic = metrics.traffic if settings.server.admin_listen or handed.admin else None
        attempts = Attempts(audit, metrics, now, log)
        lasting = Lasting(log, now, database, background, last_seen, attempts, metrics, traffic, access)
        parts = build(configuration, lasting, None)
        health = Health(database, parts.homeserver, metrics)
        server = Server(parts.gateway)
        gateway = Running(lasting, parts, server, health)
        metrics.live, health.key_sets = gateway.live, gateway.key_sets
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(background.close, 5)
        if settings.server.admin_listen or handed.admin:
            places = Places([settings.server.admin_listen], handed.admin, reuse_port=settings.server.reuse_port)
            await stack.enter_async_context(sites(web.Server(health, access_log=None), places, 1))
        stack.callback(gateway.hurry)
        background.leave(audit.keep(now), "audit")
        await exchange({}, parts.fetched)
        gateway.addresses = await stack.enter_async_context(listening(server, settings.server, handed.public))
        stack.callback(health.stop)
        yield gateway


def _allow_open_files() -> None:
    # Every waiting /sync takes two sockets, and the usual limit is 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _access_log(settings: Settings) -> AccessLog | None:
    return AccessLog(settings.log, sys.stderr, time.time) if settings.log.access else None


def _warn(configuration: Configuration, log: Logger) -> None:
    for warning in configuration.warnings:
        log.warning("configuration", warning=warning)


def _changed_at_start(before: Configuration, after: Configuration) -> list[str]:
    """Return the names of what changed and only a restart brings into use."""
    changed = []
    for table, key in AT_START:
        old, new = getattr(before.settings, table), getattr(after.settings, table)
        if (getattr(old, key) != getattr(new, key)) if key else old != new:
            changed.append(".".join(filter(None, (table, key))))
    return changed
