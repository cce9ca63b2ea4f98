"""The audit trail: every attempt to log in, written beside the answers.

A commit waits for the disk, so a login never waits for one: what ended within an interval is committed together. The
price is that a crash loses the attempts of that moment, whose log lines are out. No row says what did not happen, and
where attempts are missing for another reason a row says how many.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from gateway.errors import Refused
from gateway.limits import Bucket, limiter
from gateway.logs import Logger
from gateway.storage.database import Database
from gateway.storage.schema import logins
from gateway.tasks import Background

# Outcomes beside the names of the refusals.
OPENED: Final = "ok"
BY_HOMESERVER: Final = "by_homeserver"
NOT_RECORDED: Final = "not_recorded"
# Asked for, any outcome but a session.
REFUSED: Final = "refused"

# Clients choose some values.
_MAX_CHARACTERS: Final = 256
# Seconds until the first of a group is written: its answer goes out before. And between two commits.
_SOON: Final = 0.005
_INTERVAL: Final = 0.05
# A database that takes nothing is tried again after so many seconds, while so many attempts wait, of 2 KB at most.
_RETRY: Final = 1
_WAITING: Final = 10_000
_BATCH: Final = 500
# Refused attempts beyond these are counted only, so that nobody fills the disk: a flood that never ends leaves 86,400
# rows a day. Of the attempts that met a limit, one a minute of each address or user is written.
_REFUSED: Final = Bucket(burst=1000, refill=60)
_LIMITED: Final = Bucket(burst=1, refill=1)
# How often it is told what is missing, and old rows are looked for, in seconds. These go in steps of so many with a
# pause: a login that waits for the write lock waits for one step at most.
_TELL_INTERVAL: Final = 60
_SWEEP_INTERVAL: Final = 3600
_SWEEP_ROWS: Final = 200
_SWEEP_PAUSE: Final = 0.02
_DAY: Final = 86400

_INSERT: Final = insert(logins)
_SWEEP: Final = delete(logins).where(
    logins.c.id.in_(
        select(logins.c.id).where(logins.c.at_ms < bindparam("before")).order_by(logins.c.at_ms).limit(_SWEEP_ROWS)
    )
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt: when it ended, in seconds since the epoch, how, and whose it was; "" is what is not known.

    `issuer` and `subject` are of a verified signature; `user_id` is the account that it was for.
    """

    at: float
    outcome: str
    user_id: str = ""
    issuer: str = ""
    subject: str = ""
    device_id: str = ""
    address: str = ""
    user_agent: str = ""
    reason: str = ""
    request_id: str = ""


class Audit:
    """Collects attempts and writes them; with a `retention` of 0 days it writes none."""

    def __init__(self, database: Database, background: Background, log: Logger, retention: int) -> None:
        self._database = database
        self._background = background
        self._log = log
        self._retention = retention
        self._waiting: list[Entry] = []
        self._missing = 0
        self._failing = False
        self._writing = False
        self._stopping = asyncio.Event()
        self._refused = limiter(_REFUSED)
        self._limited = limiter(_LIMITED)

    def note(self, entry: Entry, once: str = "") -> None:
        """Note an attempt; of those with the same `once`, one a minute is written."""
        if not self._retention:
            return
        if len(self._waiting) >= _WAITING or (entry.outcome != OPENED and self._is_flood(once)):
            self._missing += 1
        else:
            self._add(entry)

    @property
    def waiting(self) -> int:
        """How many attempts are noted and not written yet."""
        return len(self._waiting)

    def hurry(self) -> None:
        """Write without waiting for more: the gateway stops."""
        self._stopping.set()

    async def keep(self, now: Callable[[], float]) -> None:
        """Tell how many attempts are missing and delete old rows, until the gateway stops."""
        swept_at: float | None = None
        while not self._stopping.is_set():
            if swept_at is None or abs(now() - swept_at) >= _SWEEP_INTERVAL:
                swept_at = now()
                await self._sweep(swept_at)
            await self._rest(_TELL_INTERVAL)
            self._tell_missing(now())
        self._tell_missing(now())

    def _is_flood(self, once: str) -> bool:
        return (self._limited is not None and bool(once) and self._limited.limit(once).limited) or (
            self._refused is not None and self._refused.limit("refused").limited
        )

    def _tell_missing(self, now: float) -> None:
        # Not while it fails: the number grows, and one row can say it.
        if self._missing and not self._failing:
            self._add(Entry(now, NOT_RECORDED, reason=f"{self._missing} attempts"))
            self._missing = 0

    def _add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if not self._writing:
            self._writing = True
            self._background.leave(self._write(), "audit")

    async def _write(self) -> None:
        try:
            await self._rest(_SOON)
            while self._waiting and not (self._failing and self._stopping.is_set()):
                await self._write_batch()
                await self._rest(_RETRY if self._failing else _INTERVAL)
            if self._waiting:
                self._log.error("audit_lost", attempts=self._missing + self.waiting)
        finally:
            self._writing = False

    async def _write_batch(self) -> None:
        """Write what waits. What can't be begun waits on; what breaks off may be there, and is not written twice."""
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        begun = False
        try:
            async with self._database.transaction() as connection:
                begun = True
                await connection.execute(_INSERT, [_row(entry) for entry in batch])
        except Refused as refused:
            if begun:
                self._missing += len(batch)
            else:
                self._waiting = batch + self._waiting
            if not self._failing:
                self._log.error("audit_not_written", reason=refused.reason)
            self._failing = True
        else:
            if self._failing:
                self._failing = False
                self._log.info("audit_written_again")
                self._tell_missing(batch[-1].at)

    async def _sweep(self, now: float) -> None:
        before = int((now - self._retention * _DAY) * 1000)
        try:
            while not self._stopping.is_set():
                if await self._database.write(_SWEEP, {"before": before}) < _SWEEP_ROWS:
                    return
                await self._rest(_SWEEP_PAUSE)
        except Refused as refused:
            self._log.warning("audit_not_swept", reason=refused.reason)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


@dataclass(frozen=True, slots=True)
class AttemptFilter:
    """Which attempts are asked for; None is any. `since` is in seconds since the epoch."""

    limit: int
    since: float | None = None
    user_id: str | None = None
    issuer: str | None = None
    subject: str | None = None
    outcome: str | None = None
    address: str | None = None


async def find_attempts(database: Database, wanted: AttemptFilter) -> list[Entry]:
    """Return attempts, the newest first. Raises `Refused` when the database can't."""
    query = select(*(logins.c["at_ms" if field.name == "at" else field.name] for field in fields(Entry)))
    if wanted.since is not None:
        query = query.where(logins.c.at_ms >= int(wanted.since * 1000))
    for name in ("user_id", "issuer", "subject", "outcome", "address"):
        value = getattr(wanted, name)
        if name == "outcome" and value == REFUSED:
            query = query.where(logins.c.outcome.not_in((OPENED, NOT_RECORDED)))
        elif value is not None:
            query = query.where(logins.c[name] == _bounded(value))
    query = query.order_by(logins.c.at_ms.desc(), logins.c.id.desc()).limit(wanted.limit)
    async with database.connect() as connection:
        return [Entry(at_ms / 1000, *others) for at_ms, *others in await connection.execute(query)]


def _row(entry: Entry) -> dict[str, Any]:
    texts = {name: _bounded(value) for name, value in asdict(entry).items() if name != "at"}
    return {"at_ms": int(entry.at * 1000), **texts}


def _bounded(text: str) -> str:
    """Return a text that any database takes: of some length, without what UTF-8 or PostgreSQL can't hold."""
    return text[:_MAX_CHARACTERS].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
