"""PostgreSQL: what can't be used is told in one line, what fails is refused in time, and what comes back heals."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.core.identity import Identity
from gateway.errors import Refusal, Refused, Unusable
from gateway.storage import postgres as module
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, DatabaseSettings, open_database, upgrade_database
from gateway.storage.migrate import migrations_directory
from tests.authority import LOOPBACK, Authority, authority_in
from tests.postgres_server import LOCKED, PASSWORD, PostgresServer, running_postgres

ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


@pytest.fixture
def settings(postgres: PostgresServer) -> DatabaseSettings:
    return DatabaseSettings(url=postgres.new_database(), pool_size=3)


def end_connections(postgres: PostgresServer) -> int:
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'matrix-%'"
    return int(postgres.sql(ended))


def name_of(settings: DatabaseSettings) -> str:
    return str(make_url(settings.url).database)


@pytest.fixture
async def database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    async with open_database(settings) as opened:
        yield opened


async def refusal_of(url: str) -> str:
    """The one line that both a start and a command end with."""
    settings = DatabaseSettings(url=url)
    lines = set()
    for work in (upgrade_database(settings), open_database(settings, upgrade=False).__aenter__()):
        with pytest.raises(Unusable) as caught:
            await work
        lines.add(str(caught.value))
    (line,) = lines
    assert re.fullmatch(r"The database .* at .* can't be used: .*[^.]\.", line), line
    assert "secret" not in line
    return line


async def test_what_is_not_there_is_told_in_one_line(postgres: PostgresServer) -> None:
    host = f"?host={quote(str(postgres.folder), safe='')}"

    assert 'database "missing" does not exist' in await refusal_of(postgres.url("missing"))
    assert 'role "nobody_here" does not exist' in await refusal_of(postgres.url("postgres", "nobody_here"))
    assert "password authentication failed" in await refusal_of(f"postgresql://{LOCKED}:secret@/postgres{host}")
    assert "No such file" in await refusal_of("postgresql://me:secret@/x?host=/nowhere")
    assert "Connect call failed" in await refusal_of("postgresql://me:secret@127.0.0.1:1/x")
    assert "label empty or too long" in await refusal_of("postgresql://me:secret@a..b/x")


async def test_a_user_without_rights_is_told(postgres: PostgresServer) -> None:
    settings = DatabaseSettings(url=postgres.new_database("template0").replace("postgres@", f"{LOCKED}@"))

    with pytest.raises(Unusable, match="permission denied for schema public"):
        await upgrade_database(settings.completed({}, PASSWORD))


async def test_a_password_of_any_characters_is_taken(postgres: PostgresServer) -> None:
    settings = DatabaseSettings(url=postgres.new_database().replace("postgres@", f"{LOCKED}@"))
    postgres.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {LOCKED}", name_of(settings))
    async with open_database(settings.completed({}, PASSWORD)) as database:
        await database.ping()


async def test_a_server_that_can_only_be_read_is_refused(
    postgres: PostgresServer, settings: DatabaseSettings
) -> None:
    postgres.sql(f"ALTER DATABASE {name_of(settings)} SET default_transaction_read_only = on")

    with pytest.raises(Unusable, match="it can only be read"):
        await upgrade_database(settings)
    async with open_database(settings, upgrade=False) as database:
        assert await Accounts(database).all() == []
        with pytest.raises(Refused, match="read-only transaction"):
            await Accounts(database).claim(ALICE, 1)


async def test_a_standby_server_is_refused(postgres: PostgresServer) -> None:
    with running_postgres(postgres.programs) as standby:
        standby.stop()
        standby.follow_nobody()
        standby.start()
        assert standby.sql("SELECT pg_is_in_recovery()") == "t"
        with pytest.raises(Unusable, match="it can only be read, as a standby server can; name the primary"):
            await upgrade_database(DatabaseSettings(url=standby.url("postgres")))


async def test_a_database_that_can_t_hold_every_name_is_refused(postgres: PostgresServer) -> None:
    postgres.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")

    with pytest.raises(Unusable, match="its encoding is LATIN1"):
        await upgrade_database(DatabaseSettings(url=postgres.url("latin")))


async def test_a_connection_that_the_server_closed_is_replaced_before_its_use(
    database: Database, postgres: PostgresServer
) -> None:
    accounts = Accounts(database)
    await asyncio.gather(*(accounts.find(ALICE) for _ in range(9)))
    for number in range(3):
        assert end_connections(postgres) > 0
        await asyncio.sleep(0.05)
        assert await accounts.claim(Identity("iss", f"s{number}", f"u{number}", "@u:x"), 1)


async def test_a_read_that_meets_a_dead_connection_is_asked_again(
    settings: DatabaseSettings, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_refuse_closed", lambda *_: None)
    async with open_database(settings) as database:
        await database.ping()
        assert end_connections(postgres) > 0
        await asyncio.sleep(0.05)

        await database.ping()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DROP TABLE accounts", "it holds the tables of another program"),
        ("UPDATE alembic_version SET version_num = '9999'", "(revision 9999) is of a newer version"),
        ("DELETE FROM alembic_version", "it holds the tables of another program"),
    ],
)
async def test_what_is_not_ours_is_refused_and_left(
    settings: DatabaseSettings, postgres: PostgresServer, statement: str, why: str
) -> None:
    postgres.sql(statement, name_of(settings))

    assert why in await refusal_of(settings.url)


async def test_a_schema_that_is_older_is_brought_up_to_date_with_what_it_holds(postgres: PostgresServer) -> None:
    import asyncpg  # noqa: PLC0415 - the fixture skips where it is not installed

    settings = DatabaseSettings(url=postgres.new_database("template0"))

    def make_the_first(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(migrations_directory()))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO accounts VALUES ('alice', 'iss', 's1', 'active', 1, NULL)")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(settings.url))
    async with engine.begin() as connection:
        await connection.run_sync(make_the_first)
    await engine.dispose()
    with pytest.raises(Unusable, match="its schema is not up to date; run"):
        await open_database(settings, upgrade=False).__aenter__()

    done = await asyncio.gather(*(upgrade_database(settings) for _ in range(5)))
    assert [upgrade.before for upgrade in done].count("0001") == 1
    async with open_database(settings, upgrade=False) as database:
        assert [account.localpart for account in await Accounts(database).all()] == ["alice"]


async def test_a_server_that_is_killed_refuses_at_once_and_heals_when_it_is_back(
    database: Database, postgres: PostgresServer
) -> None:
    accounts = Accounts(database)
    assert await accounts.claim(ALICE, 1)
    postgres.kill()
    try:
        begun = time.monotonic()
        for work in (accounts.all(), accounts.claim(ALICE, 1), accounts.saw({"alice": 2}), database.ping()):
            with pytest.raises(Refused) as caught:
                await work
            assert caught.value.refusal is Refusal.DATABASE_UNAVAILABLE
            assert caught.value.retry_after == 5
        assert time.monotonic() - begun < 3
    finally:
        postgres.start()

    assert len(await accounts.all()) == 1
    assert not await accounts.claim(ALICE, 1)


async def test_a_server_that_hangs_is_given_up_in_time_and_heals(
    database: Database, postgres: PostgresServer
) -> None:
    accounts = Accounts(database)
    await accounts.claim(ALICE, 1)
    with postgres.frozen():
        begun = time.monotonic()
        refused = await asyncio.gather(
            *(work for _ in range(6) for work in (accounts.find(ALICE), accounts.claim(ALICE, 1))),
            return_exceptions=True,
        )
        took = time.monotonic() - begun
    assert [getattr(error, "refusal", error) for error in refused] == [Refusal.DATABASE_UNAVAILABLE] * 12
    assert {getattr(error, "reason", "") for error in refused} == {"it takes too long to answer"}
    assert took < 6
    assert len(await accounts.all()) == 1


async def test_a_server_elsewhere_is_asked_over_tls_and_must_be_the_one_that_is_meant(
    postgres: PostgresServer, tmp_path: Path, unused_tcp_port: int
) -> None:
    authority, stranger = authority_in(tmp_path), authority_in(new_folder(tmp_path / "stranger"))
    authority.server(LOOPBACK)
    tls = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.pem"}
    tcp = {"listen_addresses": "127.0.0.1", "port": str(unused_tcp_port)}
    files = {"server.pem": (tmp_path / "server.pem").read_bytes()}
    with running_postgres(postgres.programs, files, **tls, **tcp) as server:
        server.sql(f"ALTER DATABASE postgres OWNER TO {LOCKED}")

        async def is_encrypted(host: str, mode: str, trusted: Authority) -> bool:
            url = f"postgresql://{LOCKED}@{host}:{unused_tcp_port}/postgres?sslmode={mode}&sslrootcert=ca.pem"
            settings = DatabaseSettings(url=url)
            certificates = {"sslrootcert": str(trusted.folder / "authority.pem")}
            async with open_database(settings.completed(certificates, PASSWORD)) as database:
                async with database.connect() as connection:
                    asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                    return bool((await connection.exec_driver_sql(asked)).scalar_one())

        assert await is_encrypted("127.0.0.1", "verify-full", authority)
        assert await is_encrypted("localhost", "verify-ca", authority)
        assert await is_encrypted("127.0.0.1", "prefer", stranger)
        assert not await is_encrypted("127.0.0.1", "disable", stranger)
        for host, mode, trusted in (
            ("127.0.0.1", "verify-full", stranger),
            ("127.0.0.1", "verify-ca", stranger),
            ("localhost", "verify-full", authority),
        ):
            with pytest.raises(Unusable, match="certificate verify failed"):
                await is_encrypted(host, mode, trusted)


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path
