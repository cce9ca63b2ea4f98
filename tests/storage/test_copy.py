"""A copy holds what its source holds, whichever kinds they are, also when it breaks off and goes on."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, LargeBinary, Table, delete, insert, select

from gateway.errors import Unusable
from gateway.storage import copy as module
from gateway.storage.copy import compare, copy_rows, count_rows
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.schema import accounts, metadata
from tests.postgres_server import PostgresServer

TABLES = len(metadata.tables)


def value(column: Column[Any], number: int) -> object:
    """Something for a column: what is hard to keep, and where it may be, nothing at all."""
    if isinstance(column.type, BigInteger):
        return None if column.nullable and number % 3 == 0 else number * 2**40
    if isinstance(column.type, LargeBinary):
        return bytes(range(256)) * (number % 3)
    return None if column.nullable and number % 3 == 1 else f"'ß{number % 7}\x01\n\U0001f600 {column.name}-{number}"


async def fill(database: Database, count: int) -> None:
    for table in metadata.sorted_tables:
        rows = [{column.name: value(column, number) for column in table.c} for number in range(count)]
        async with database.transaction() as connection:
            await connection.execute(insert(table), rows)


@pytest.fixture(params=["sqlite to postgresql", "postgresql to sqlite", "postgresql to postgresql"])
async def both(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Database]]:
    monkeypatch.setattr(module, "_STEP", 20)
    async with AsyncExitStack() as stack:
        opened = []
        for kind in request.param.split(" to "):
            url = f"sqlite:///{tmp_path}/gateway.db" if kind == "sqlite" else postgres.new_database()
            opened.append(await stack.enter_async_context(open_database(DatabaseSettings(url=url))))
        yield opened


async def rows_of(database: Database, table: Table) -> set[tuple[Any, ...]]:
    async with database.connect() as connection:
        return {tuple(row) for row in await connection.execute(select(table))}


async def test_every_row_of_every_table_is_copied_and_compared(both: list[Database]) -> None:
    source, target = both
    await fill(source, 50)
    told: list[int] = []
    await copy_rows(source, target, told.append)
    compared = await compare(source, target, told.append)

    for table in metadata.sorted_tables:
        assert await rows_of(source, table) == await rows_of(target, table)
        assert len(await rows_of(source, table)) == 50
    assert [one.table for one in compared if one.source == one.target and one.source.rows == 50] == [
        table.name for table in metadata.sorted_tables
    ]
    assert sum(told) == 3 * await count_rows(source) == 3 * 50 * TABLES


async def test_a_copy_that_broke_off_goes_on_and_ends_in_the_same_state(both: list[Database]) -> None:
    source, target = both
    await fill(source, 50)

    class BreaksOff(Exception):
        pass

    def break_off(_count: int) -> None:
        raise BreaksOff

    for _ in range(3):
        with pytest.raises(BreaksOff):
            await copy_rows(source, target, break_off)
    assert await count_rows(target) == 20
    for _ in range(2):
        await copy_rows(source, target, lambda _: None)
        assert all(one.source == one.target for one in await compare(source, target, lambda _: None))


@pytest.mark.parametrize("change", ["another row", "another value"])
async def test_a_target_with_other_rows_is_refused_and_left(both: list[Database], change: str) -> None:
    source, target = both
    await fill(source, 50)
    await copy_rows(source, target, lambda _: None)
    async with source.transaction() as connection:
        one = select(accounts.c.localpart).limit(1).scalar_subquery()
        if change == "another row":
            await connection.execute(delete(accounts).where(accounts.c.localpart == one))
        else:
            await connection.execute(accounts.update().where(accounts.c.localpart == one).values(state="locked"))
    before = await rows_of(target, accounts)

    with pytest.raises(Unusable, match=r"other rows than the source, in accounts; name an empty one\.$"):
        await copy_rows(source, target, lambda _: None)
    assert await rows_of(target, accounts) == before


async def test_a_difference_shows_in_the_checksum(both: list[Database]) -> None:
    source, target = both
    await fill(source, 5)
    await copy_rows(source, target, lambda _: None)
    async with target.connect() as connection:
        await connection.exec_driver_sql("UPDATE accounts SET created_at = 7 WHERE created_at = 0")

    different = [one for one in await compare(source, target, lambda _: None) if one.source != one.target]
    assert [(one.table, one.source.rows, one.target.rows) for one in different] == [("accounts", 5, 5)]


async def test_rows_that_are_numbered_go_on_after_those_that_were_copied(both: list[Database]) -> None:
    source, target = both
    await fill(source, 5)
    await copy_rows(source, target, lambda _: None)
    for table in metadata.sorted_tables:
        number = table.autoincrement_column
        if number is not None:
            row = {column.name: value(column, 2) for column in table.c if column is not number}
            async with target.transaction() as connection:
                await connection.execute(insert(table), row)
            assert len(await rows_of(target, table)) == 6
