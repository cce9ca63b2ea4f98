"""`users` and `database` over a real database file."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Configuration
from gateway.core.identity import Identity
from gateway.storage.accounts import Accounts
from gateway.storage.database import open_database
from gateway.storage.migrate import migrations_directory
from tests.cli.commands import TABLES, configured, run
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, User
from tests.fake_mas import running_mas
from tests.running_gateway import SERVER_NAME, RunningGateway, mint, running_gateway


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    made = configured(tmp_path, TABLES)

    async def fill() -> None:
        async with open_database(made.settings.database) as database:
            accounts = Accounts(database)
            await accounts.claim(Identity("https://id", "subject-1", "alice", "@alice:example.org"), 1_700_000_000)
            await accounts.activate("alice")
            await accounts.claim(Identity("https://id", "subject-2", "bob", "@bob:example.org"), 1_700_000_000)

    asyncio.run(fill())
    return made


def test_list_shows_every_account(configuration: Configuration) -> None:
    result = run("users", "list", "-c", str(configuration.path))

    assert result.returncode == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["user", "state", "subject", "issuer", "made", "last", "seen"]
    assert [row.split()[:3] for row in rows] == [
        ["@alice:example.org", "active", "subject-1"],
        ["@bob:example.org", "registering", "subject-2"],
    ]


def test_list_shows_subjects_as_they_are_and_control_characters_written_out(tmp_path: Path) -> None:
    made = configured(tmp_path, TABLES)
    subjects = ["a[/b]c", "[bold]subj[red]", "\x1b[31mred"]

    async def fill() -> None:
        async with open_database(made.settings.database) as database:
            for name, subject in zip("abc", subjects, strict=True):
                await Accounts(database).claim(Identity("https://id", subject, name, f"@{name}:example.org"), 0)

    asyncio.run(fill())

    listed = run("users", "list", "-c", str(made.path))
    shown = run("users", "show", "a", "-c", str(made.path))

    assert listed.returncode == shown.returncode == 0
    assert [row.split()[2] for row in listed.stdout.splitlines()[1:]] == [*subjects[:2], "\\x1b[31mred"]
    assert "a[/b]c" in shown.stdout


def test_list_prints_json_for_scripts(configuration: Configuration) -> None:
    rows = json.loads(run("users", "list", "--json", "-c", str(configuration.path)).stdout)

    assert [row["user_id"] for row in rows] == ["@alice:example.org", "@bob:example.org"]
    assert rows[0]["created_at"] == "2023-11-14T22:13:20+00:00"


def test_a_locked_account_is_shown_as_locked_whatever_it_was(configuration: Configuration) -> None:
    change(configuration, Accounts.lock, "alice", "bob")

    rows = json.loads(run("users", "list", "--json", "-c", str(configuration.path)).stdout)

    assert [row["state"] for row in rows] == ["locked", "locked"]


def change(
    configuration: Configuration, how: Callable[[Accounts, str], Coroutine[Any, Any, bool]], *localparts: str
) -> None:
    """Change rows as the gateway's own code does."""

    async def do() -> None:
        async with open_database(configuration.settings.database) as database:
            for localpart in localparts:
                assert await how(Accounts(database), localpart)

    asyncio.run(do())


@pytest.mark.parametrize("name", ["alice", "@alice:example.org"])
def test_show_takes_a_localpart_or_a_user_id(configuration: Configuration, name: str) -> None:
    result = run("users", "show", name, "--json", "-c", str(configuration.path))

    assert json.loads(result.stdout)["subject"] == "subject-1"


def test_list_makes_no_database(tmp_path: Path) -> None:
    path = configured(tmp_path, TABLES).path

    result = run("users", "list", "-c", str(path))

    assert result.returncode == 1
    assert "gateway.db can't be used: it is not there yet; `serve` and `database upgrade` make it" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_list_upgrades_no_database(tmp_path: Path) -> None:
    path = configured(tmp_path, TABLES).path
    (tmp_path / "gateway.db").touch()

    result = run("users", "list", "-c", str(path))

    assert result.returncode == 1
    assert "its schema is not up to date; run `matrix-login-gateway database upgrade`" in result.stderr
    assert (tmp_path / "gateway.db").read_bytes() == b""


@pytest.mark.parametrize("command", [["database", "upgrade"], ["users", "list"], ["users", "show", "alice"]])
def test_no_secret_is_needed_to_read_the_database(configuration: Configuration, command: list[str]) -> None:
    text = configuration.path.read_text()
    text = text.replace("as_token =", "as_token_file = '${CREDENTIALS_DIRECTORY}/as_token' #")
    configuration.path.write_text(text.replace("secret =", "secret_file = '${CREDENTIALS_DIRECTORY}/secret' #"))

    result = run(*command, "-c", str(configuration.path))

    assert (result.returncode, result.stderr) == (0, "")


def test_show_of_a_stranger_fails_in_one_line(configuration: Configuration) -> None:
    result = run("users", "show", "carol", "-c", str(configuration.path))

    assert result.returncode == 1
    assert "No account of carol is in the database" in result.stderr


def test_upgrade_says_what_it_did(tmp_path: Path) -> None:
    path = str(configured(tmp_path, TABLES).path)

    newest = max(file.name[:4] for file in migrations_directory().glob("versions/*.py"))

    assert (
        run("database", "upgrade", "-c", path).stdout == f"Upgraded the schema from nothing to revision {newest}.\n"
    )
    assert run("database", "upgrade", "-c", path).stdout == f"The schema is up to date (revision {newest}).\n"


@pytest.mark.parametrize("command", [["database", "upgrade"], ["users", "list"], ["serve"]])
def test_a_newer_schema_is_refused_in_one_line(configuration: Configuration, command: list[str]) -> None:
    file = configuration.path.parent / "gateway.db"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    result = run(*command, "-c", str(configuration.path), MATRIX_LOGIN_GATEWAY__SERVER__LISTEN='["127.0.0.1:0"]')

    assert result.returncode == 1
    assert "its schema (revision 9999) is of a newer version" in result.stderr
    assert "Traceback" not in result.stderr


ALICE = "@alice:example.org"


async def users(gateway: RunningGateway, *arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of a command beside the running gateway."""
    result = await asyncio.to_thread(run, "users", *arguments, "-c", str(gateway.configuration.path))
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url) as running:
        yield running


async def test_lock_refuses_logins_of_a_running_gateway_and_ends_the_sessions(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    for name in ("alice", "bob"):
        await gateway.log_in(mint(name))

    status, out, errors = await users(gateway, "lock", ALICE)

    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        f"Locked {ALICE}: a token does not log it in any more.",
        f"Ended all sessions of {ALICE}.",
    ]
    assert list(homeserver.sessions.values()) == ["@bob:example.org"]
    assert (await gateway.log_in(mint())).body["errcode"] == "M_USER_LOCKED"


async def test_unlock_lets_the_account_in_again(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    await gateway.log_in(mint())
    await users(gateway, "lock", "alice")

    assert await users(gateway, "unlock", "alice") == (0, f"Unlocked {ALICE}.\n", "")

    assert (await gateway.log_in(mint())).body["user_id"] == ALICE
    assert homeserver.registered == 1


async def test_unlock_of_what_is_not_locked_fails_in_one_line(gateway: RunningGateway) -> None:
    await gateway.log_in(mint())

    for name in ("alice", "carol"):
        status, _, errors = await users(gateway, "unlock", name)
        assert (status, errors) == (
            1,
            f"No account of {name} is locked; `users list` shows the state of each.\n",
        )


async def test_logout_ends_the_sessions_and_locks_nothing(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    await gateway.log_in(mint())

    assert await users(gateway, "logout", "alice") == (0, f"Ended all sessions of {ALICE}.\n", "")

    assert homeserver.sessions == {}
    assert (await gateway.log_in(mint())).status == 200


async def test_logout_reaches_users_who_never_came_through_the_gateway(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.users["carol"] = User("Carol")
    homeserver.sessions["c"], homeserver.devices["c"] = "@carol:example.org", "PHONE"

    assert (await users(gateway, "logout", "carol"))[0] == 0

    assert homeserver.sessions == {}


async def test_a_lock_whose_sessions_go_on_is_a_failure_and_says_so(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    await gateway.log_in(mint())
    await homeserver.stop()

    status, out, errors = await users(gateway, "lock", "alice")

    assert status == 1
    assert out == f"Locked {ALICE}: a token does not log it in any more.\n"
    assert errors.startswith(f"It is locked, but the sessions of {ALICE} could not be ended: ")
    assert f"They may go on. Repeat: matrix-login-gateway users logout {ALICE}" in errors
    assert (await users(gateway, "logout", "alice"))[2].startswith(f"The sessions of {ALICE} could not be ended: ")
    await homeserver.start()
    assert (await gateway.log_in(mint())).body["errcode"] == "M_USER_LOCKED"


async def test_a_user_that_the_database_does_not_know_is_not_locked(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.users["carol"] = User("Carol")

    status, out, errors = await users(gateway, "lock", "carol")

    assert (status, out) == (1, "")
    assert errors.startswith("No account of carol is in the database.")


@pytest.mark.parametrize("command", ["lock", "unlock", "logout"])
async def test_a_user_of_another_server_is_wrong_usage(gateway: RunningGateway, command: str) -> None:
    status, _, errors = await users(gateway, command, "@alice:example.com")

    assert status == 2
    assert "not a user of example.org" in errors


@pytest.mark.parametrize("command", ["lock", "unlock", "logout"])
async def test_the_gateways_own_user_is_wrong_usage(
    gateway: RunningGateway, homeserver: FakeHomeserver, command: str
) -> None:
    status, _, errors = await users(gateway, command, f"@_login_gateway:{SERVER_NAME}")

    assert (status, homeserver.to("/logout/all")) == (2, [])
    assert "the gateway's own user, who has no sessions" in errors


async def test_logout_of_a_user_that_is_nowhere_makes_no_account(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    assert await users(gateway, "logout", "carol") == (
        1,
        "",
        "The homeserver has no user @carol:example.org.\n",
    )
    assert homeserver.users == {}


async def test_logout_and_lock_end_the_sessions_of_another_service(tmp_path: Path) -> None:
    async with running_mas() as mas, running_gateway(tmp_path, mas.homeserver.url, session=mas.settings) as gateway:
        for command in ("logout", "lock"):
            for name in ("alice", "alice", "bob"):
                await gateway.log_in(mint(name))
            status, out, errors = await users(gateway, command, "alice")
            assert (status, errors) == (0, "")
            assert out.endswith(f"Ended all sessions of {ALICE}.\n")
            assert {session.user for session in mas.open_sessions} == {"bob"}
        status, _, errors = await users(gateway, "logout", "carol")
        assert (status, errors) == (1, "The homeserver has no user @carol:example.org.\n")


async def test_logout_says_what_it_needs_where_the_homeserver_opens_sessions_itself(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    session = {"method": "jwt", "jwt_secret": JWT_SECRET, "as_token": None}
    async with running_gateway(tmp_path, homeserver.url, session=session) as gateway:
        status, _, errors = await users(gateway, "logout", "alice")

    assert status == 1
    assert "set [session] as_token" in errors
