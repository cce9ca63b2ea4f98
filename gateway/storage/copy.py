"""Copies all that one database holds to another, of whichever kind, and proves that both hold the same.

Rows go in steps, each committed by itself, and a row that is there already stays: a copy that was killed goes on.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Table, func, literal, select, text, tuple_

from gateway.errors import Unusable
from gateway.storage.database import Database
from gateway.storage.schema import metadata

Row: TypeAlias = tuple[Any, ...]

_STEP: Final = 500


@dataclass(frozen=True, slots=True)
class Contents:
    """What a table holds: how many rows, and a sum over them in which their order does not matter."""

    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A table at both sides."""

    table: str
    source: Contents
    target: Contents


async def count_rows(database: Database) -> int:
    """Return how many rows all tables have."""
    found = 0
    for table in metadata.sorted_tables:
        async with database.connect() as connection:
            found += (await connection.execute(select(func.count()).select_from(table))).scalar_one()
    return found


async def copy_rows(source: Database, target: Database, tell: Callable[[int], None]) -> None:
    """Copy every row. `tell` hears how many were dealt with since.

    Raises `Unusable` where the target holds a row that the source has not, and `Refused` where one of them can't.
    """
    for table in metadata.sorted_tables:
        async for rows in _steps(target, table):
            if set(rows) - set(await _same_keys(source, table, rows)):
                raise Unusable(f"The target holds other rows than the source, in {table.name}; name an empty one.")
    for table in metadata.sorted_tables:
        insert = target.insert(table).on_conflict_do_nothing()
        async for rows in _steps(source, table):
            async with target.transaction() as connection:
                await connection.execute(insert, [dict(zip(table.c.keys(), row, strict=True)) for row in rows])
            tell(len(rows))
        await _go_on_counting(target, table)


async def compare(source: Database, target: Database, tell: Callable[[int], None]) -> list[Compared]:
    """Read both sides and return what each table holds; `tell` hears of every row twice."""
    return [
        Compared(table.name, await _contents(source, table, tell), await _contents(target, table, tell))
        for table in metadata.sorted_tables
    ]


async def _contents(database: Database, table: Table, tell: Callable[[int], None]) -> Contents:
    count = total = 0
    async for rows in _steps(database, table):
        count += len(rows)
        total += sum(int.from_bytes(hashlib.sha256(repr(row).encode()).digest()) for row in rows)
        tell(len(rows))
    return Contents(count, f"{total % 2**256:064x}"[:16])


async def _steps(database: Database, table: Table) -> AsyncIterator[list[Row]]:
    """Give the rows in the order of their keys, whichever the database holds that to be; none is read twice."""
    key = table.primary_key.columns.values()
    query = select(table).order_by(*key).limit(_STEP)
    places = [table.c.keys().index(column.name) for column in key]
    last: Row | None = None
    while True:
        # A transaction for each, not one over all: a gateway that is still running must not wait.
        beyond = (
            query
            if last is None
            else query.where(
                tuple_(*key)
                > tuple_(*(literal(last[place], column.type) for place, column in zip(places, key, strict=True)))
            )
        )
        async with database.connect() as connection:
            rows = [tuple(row) for row in await connection.execute(beyond)]
        if not rows:
            return
        yield rows
        last = rows[-1]


async def _same_keys(database: Database, table: Table, rows: list[Row]) -> list[Row]:
    key = table.primary_key.columns.values()
    places = [table.c.keys().index(column.name) for column in key]
    keys = [tuple(row[place] for place in places) for row in rows]
    async with database.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(table).where(tuple_(*key).in_(keys)))]


async def _go_on_counting(database: Database, table: Table) -> None:
    """Let PostgreSQL number new rows from where the copied ones end; SQLite does it by itself."""
    number = table.autoincrement_column
    async with database.connect() as connection:
        if number is None or connection.dialect.name != "postgresql":
            return
        sequence = f"pg_get_serial_sequence('{table.name}', '{number.name}')"
        await connection.execute(
            text(f"SELECT setval({sequence}, coalesce(max({number.name}), 0) + 1, false) FROM {table.name}")  # noqa: S608 - our own names
        )
