"""Brings the schema up to date with Alembic; refuses a newer one, and a database that is somebody else's."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from gateway.errors import Unusable
from gateway.storage.schema import accounts

_PACKAGE = Path(__file__).parent.parent


class NeedsUpgrade(Unusable):
    """There is no database yet, or its schema is not up to date: `serve` sees to that."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The revisions of the schema before (None: it was empty) and after."""

    before: str | None
    after: str


def migrations_directory() -> Path:
    """Return where the migrations are: inside the installed package, or beside it in a checkout."""
    packaged = _PACKAGE / "migrations"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "migrations"


def upgrade(connection: Connection, lock: str) -> Upgrade:
    """Run the migrations that are missing, all or none; `lock` makes one of several processes do it."""
    config, scripts, head = _migrations()
    if _current_revision(connection) != head:
        connection.exec_driver_sql(lock)  # one process upgrades, the others wait and find it done
    before = _current_revision(connection)
    _check_ours(connection, before, {script.revision for script in scripts.walk_revisions()})
    if before == head:
        return Upgrade(before, head)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return Upgrade(before, head)


def check(connection: Connection) -> None:
    """Raise `Unusable` unless the schema is up to date; changes nothing."""
    _, scripts, head = _migrations()
    revision = _current_revision(connection)
    _check_ours(connection, revision, {script.revision for script in scripts.walk_revisions()})
    if revision != head:
        raise NeedsUpgrade("its schema is not up to date; run `matrix-login-gateway database upgrade`")


def _migrations() -> tuple[Config, ScriptDirectory, str]:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    if head is None:
        raise Unusable("this installation has no migrations; install it again")
    return config, scripts, head


def _check_ours(connection: Connection, revision: str | None, known: set[str]) -> None:
    tables = inspect(connection).get_table_names()
    # Another program may use Alembic too, and number its revisions as we do.
    if tables if revision is None else accounts.name not in tables:
        raise Unusable("it holds the tables of another program; name another one in [database] url")
    if revision not in {None, *known}:
        raise Unusable(
            f"its schema (revision {revision}) is of a newer version of matrix-login-gateway; install that one again"
        )


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
