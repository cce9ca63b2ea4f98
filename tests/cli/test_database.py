"""`database copy` says what it did, refuses what it can't, and may be killed at any moment."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from gateway.core.identity import Identity
from gateway.storage.accounts import Accounts
from gateway.storage.copy import count_rows
from gateway.storage.database import DatabaseSettings, open_database
from gateway.storage.schema import accounts, used_tokens
from tests.cli.commands import TABLES, configured, run
from tests.postgres_server import LOCKED, PASSWORD, PostgresServer

TOKENS = 30_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    configured(tmp_path, TABLES)

    async def fill() -> None:
        async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as database:
            await Accounts(database).claim(Identity("iss", "s1", "alice", "@alice:example.org"), 1)
            async with database.transaction() as connection:
                rows = [{"issuer": "iss", "token_id": f"{number}"} for number in range(TOKENS)]
                await connection.execute(database.insert(used_tokens), rows)

    asyncio.run(fill())
    return tmp_path / "gateway.toml"


def counted(url: str) -> int:
    async def count() -> int:
        async with open_database(DatabaseSettings(url=url)) as database:
            return await count_rows(database)

    return asyncio.run(count())


def test_a_copy_is_shown_table_by_table(source: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database("template0")
    done = run("database", "copy", "--to", url, "-c", str(source))

    assert done.returncode == 0, done.stderr
    assert re.search(rf"used_tokens +{TOKENS} +(\w{{16}}) +{TOKENS} +\1", done.stdout)
    assert re.search(r"accounts +1 +(\w{16}) +1 +\1", done.stdout)
    assert "Both hold the same. Set [database] url to the new one" in done.stdout
    assert counted(url) == TOKENS + 1
    environment = {"MATRIX_LOGIN_GATEWAY__DATABASE__URL": url}
    assert "@alice:example.org" in run("users", "list", "-c", str(source), **environment).stdout


def test_a_copy_that_is_killed_goes_on_when_it_is_started_again(source: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    command = [sys.executable, "-m", "gateway", "database", "copy", "--to", url, "-c", str(source)]
    killed_at = []
    for _ in range(20):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            before = counted(url)
            while process.poll() is None and counted(url) <= before + 1000:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        killed_at.append(counted(url))
        if killed_at[-1] > TOKENS // 2 or len(killed_at) == 3:
            break
    assert 0 < killed_at[0] < TOKENS
    assert killed_at == sorted(killed_at)

    done = run("database", "copy", "--to", url, "-c", str(source))
    assert done.returncode == 0, done.stderr
    assert counted(url) == TOKENS + 1


def test_a_target_with_other_accounts_is_refused(source: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    postgres.sql("INSERT INTO accounts VALUES ('bob', '', 'b', 'active', 1, NULL)", str(make_url(url).database))
    done = run("database", "copy", "--to", url, "-c", str(source))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"The target holds other rows than the source, in {accounts.name}; name an empty one.\n"
    assert counted(url) == 1


@pytest.mark.parametrize(
    ("target", "status", "why"),
    [
        ("mysql://host/x", 2, "neither SQLite nor PostgreSQL"),
        ("postgresql:///x?host=/nowhere", 1, "The database x at /nowhere can't be used: "),
        ("sqlite:///{}/gateway.db", 1, "The target is the database itself"),
        ("sqlite:////nowhere/x.db", 1, "unable to open database file"),
    ],
)
def test_a_target_that_can_t_be_is_told_in_one_line(source: Path, target: str, status: int, why: str) -> None:
    done = run("database", "copy", "--to", target.format(source.parent), "-c", str(source))

    assert done.returncode == status
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_comes_from_the_file_that_libpq_has(
    source: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database("template0")
    name = str(make_url(url).database)
    postgres.sql(f"ALTER DATABASE {name} OWNER TO {LOCKED}")
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:{LOCKED}:" + PASSWORD + "\n")
    passwords.chmod(0o600)
    other = url.replace("postgres@", f"{LOCKED}@")

    done = run("database", "copy", "--to", other, "-c", str(source), HOME=str(tmp_path))
    assert done.stderr.endswith('can\'t be used: password authentication failed for user "locked".\n')
    done = run("database", "copy", "--to", other, "-c", str(source), PGPASSFILE=str(passwords))
    assert done.returncode == 0, done.stderr
