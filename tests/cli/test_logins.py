"""`logins` over a real database file."""

import asyncio
import io
import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config import Configuration
from gateway.logs import LogSettings, get_logger
from gateway.storage.audit import Audit, Entry
from gateway.storage.database import open_database
from gateway.tasks import Background
from tests.cli.commands import TABLES, configured, run

NOW = time.time()
ENTRIES = [
    Entry(NOW - 86400 * 3, "ok", "@alice:example.org", "https://id", "subject-1", "PHONE", "192.0.2.1", "Element/1"),
    Entry(NOW - 3600, "expired", "", "https://id", "subject-2", "", "192.0.2.2", "curl", "late"),
    Entry(NOW - 60, "bad_signature", address="2001:db8::1", user_agent="\x1b[31mred[/b]"),
]


async def fill(configuration: Configuration, entries: list[Entry]) -> None:
    log = get_logger(LogSettings(), io.StringIO())
    background = Background(log)
    async with open_database(configuration.settings.database) as database:
        audit = Audit(database, background, log, 90)
        for entry in entries:
            audit.note(entry)
        audit.hurry()
        await background.close(5)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    made = configured(tmp_path, TABLES)
    asyncio.run(fill(made, ENTRIES))
    return made


def test_it_shows_a_table_of_the_newest_first_with_control_characters_written_out(
    configuration: Configuration,
) -> None:
    result = run("logins", "-c", str(configuration.path))

    assert (result.returncode, result.stderr) == (0, "")
    header, *rows = result.stdout.splitlines()
    assert " ".join(header.split()) == "when outcome user subject issuer device address user agent reason"
    assert [row.split()[1] for row in rows] == ["bad_signature", "expired", "ok"]
    assert "\\x1b[31mred[/b]" in rows[0]
    assert rows[0].split()[2:5] == ["-", "-", "-"]


def found(configuration: Configuration, *options: str) -> list[str]:
    result = run("logins", "-c", str(configuration.path), "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return [row["outcome"] for row in json.loads(result.stdout)]


DATE = datetime.fromtimestamp(NOW - 86400 * 2, UTC).date().isoformat()


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        (["--limit", "2"], ["bad_signature", "expired"]),
        (["--since", "2h"], ["bad_signature", "expired"]),
        (["--since", "7d"], ["bad_signature", "expired", "ok"]),
        (["--since", DATE], ["bad_signature", "expired"]),
        (["--user", "alice"], ["ok"]),
        (["--user", "@alice:example.org", "--outcome", "ok"], ["ok"]),
        (["--outcome", "refused"], ["bad_signature", "expired"]),
        (["--subject", "subject-2", "--issuer", "https://id"], ["expired"]),
        (["--address", "2001:db8::1"], ["bad_signature"]),
        (["--user", "bob"], []),
    ],
)
def test_options_choose_among_the_attempts(
    options: list[str], outcomes: list[str], configuration: Configuration
) -> None:
    assert found(configuration, *options) == outcomes


def test_json_holds_all_that_is_known(configuration: Configuration) -> None:
    result = run("logins", "-c", str(configuration.path), "--json", "--user", "alice")

    (row,) = json.loads(result.stdout)
    assert row.pop("at") == datetime.fromtimestamp(NOW - 86400 * 3, UTC).isoformat(timespec="milliseconds")
    assert row == {
        "outcome": "ok",
        "user_id": "@alice:example.org",
        "issuer": "https://id",
        "subject": "subject-1",
        "device_id": "PHONE",
        "address": "192.0.2.1",
        "user_agent": "Element/1",
        "reason": "",
        "request_id": "",
    }


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--since", "yesterday"], "write 30m, 2h, 7d"),
        (["--since", "999999999w"], ""),
        (["--outcome", "good"], "is not one of"),
        (["--limit", "0"], "is not in the range"),
    ],
)
def test_an_option_that_means_nothing_is_status_2_or_finds_all(
    options: list[str], hint: str, configuration: Configuration
) -> None:
    result = run("logins", "-c", str(configuration.path), *options)

    assert result.returncode == (2 if hint else 0)
    assert hint in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_it_works_while_another_process_writes(configuration: Configuration) -> None:
    file = configuration.path.parent / "gateway.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM logins")
        assert len(found(configuration)) == 3


def test_where_no_attempt_is_kept_it_says_so(tmp_path: Path) -> None:
    made = configured(tmp_path, TABLES + "[database]\naudit_retention = 0\n")
    asyncio.run(fill(made, []))

    assert run("logins", "-c", str(made.path)).stdout == "No attempt is kept: [database] audit_retention is 0.\n"


def test_no_attempt_is_said_in_one_line(configuration: Configuration) -> None:
    result = run("logins", "-c", str(configuration.path), "--user", "bob")

    assert result.stdout == "No such attempt is in the database.\n"
