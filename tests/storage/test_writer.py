"""Writes that come at once are committed together, each gets its own answer, and none before the commit."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.storage.writer import CHECKPOINT_ROWS, Writer

INSERT = "INSERT INTO numbers VALUES (:number) ON CONFLICT DO NOTHING"


class Numbers:
    """A table of numbers, and all that SQLite was told on the writer's connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.most_pages = 1000
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE numbers (number PRIMARY KEY NOT NULL)")

    def connect(self) -> sqlite3.Connection:
        if self.most_pages < 0:
            raise sqlite3.OperationalError("unable to open database file")
        connection = sqlite3.connect(self.path, timeout=0.05, isolation_level=None)
        connection.execute(f"PRAGMA max_page_count = {self.most_pages}")
        connection.set_trace_callback(self.told.append)
        return connection

    def read(self) -> list[object]:
        with closing(sqlite3.connect(self.path)) as connection:
            return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return Numbers(tmp_path / "numbers.db")


@pytest.fixture
async def writer(numbers: Numbers) -> AsyncIterator[Writer]:
    writer = Writer(numbers.connect)
    yield writer
    await writer.close()


async def insert(writer: Writer, *values: object) -> int:
    return await writer.write(INSERT, [{"number": value} for value in values])


async def test_what_comes_during_a_commit_goes_together_in_the_next(writer: Writer, numbers: Numbers) -> None:
    changed = await asyncio.gather(*(insert(writer, number) for number in range(20)))

    assert changed == [1] * 20
    assert numbers.read() == list(range(20))
    assert numbers.told.count("COMMIT") == 2  # the first alone, and all that came meanwhile


async def test_an_answer_is_there_for_others_to_read(writer: Writer, numbers: Numbers) -> None:
    async def written(number: int) -> bool:
        await insert(writer, number)
        return number in numbers.read()

    assert all(await asyncio.gather(*(written(number) for number in range(10))))


async def test_each_write_says_how_many_rows_are_its_own(writer: Writer) -> None:
    changed = await asyncio.gather(insert(writer, 1, 2), insert(writer, 2, 3, 4), insert(writer, 1))

    assert list(changed) == [2, 2, 0]


@pytest.mark.parametrize("value", ["\ud800", 2**70, object(), None])
async def test_what_cannot_be_written_fails_alone(writer: Writer, numbers: Numbers, value: object) -> None:
    alone, *others = await asyncio.gather(
        insert(writer, value), insert(writer, 1), insert(writer, 2), return_exceptions=True
    )
    first, bad, last = await asyncio.gather(
        insert(writer, 3), insert(writer, value), insert(writer, 4), return_exceptions=True
    )

    assert isinstance(alone, Exception)
    assert isinstance(bad, Exception)
    assert [*others, first, last] == [1, 1, 1, 1]
    assert numbers.read() == [1, 2, 3, 4]


async def test_behind_a_lock_that_stays_all_fail_and_the_next_go_on(writer: Writer, numbers: Numbers) -> None:
    with closing(sqlite3.connect(numbers.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        failed = await asyncio.gather(*(insert(writer, number) for number in range(3)), return_exceptions=True)
        other.execute("ROLLBACK")

    assert [type(failure) for failure in failed] == [sqlite3.OperationalError] * 3
    assert await insert(writer, 7) == 1
    assert numbers.read() == [7]


async def test_on_a_full_disk_a_round_is_written_whole_or_not_at_all(writer: Writer, numbers: Numbers) -> None:
    numbers.most_pages = 4
    outcomes = await asyncio.gather(
        *(insert(writer, f"{number}" * 3000) for number in range(9)), return_exceptions=True
    )
    kept = [outcome for outcome in outcomes if outcome == 1]

    assert any(isinstance(outcome, sqlite3.OperationalError) for outcome in outcomes)
    assert len(numbers.read()) == len(kept)
    numbers.most_pages = 1000
    assert await insert(writer, "later") == 1


async def test_a_write_whose_caller_has_gone_before_its_round_is_left_out(writer: Writer, numbers: Numbers) -> None:
    tasks = [asyncio.create_task(insert(writer, number)) for number in range(3)]
    await asyncio.sleep(0)  # all three wait, the first in its round
    tasks[1].cancel()
    await asyncio.wait(tasks)

    assert numbers.read() == [0, 2]
    assert await insert(writer, 5) == 1


async def test_nothing_is_kept_of_writes_whose_callers_go_while_the_disk_hangs(
    writer: Writer, numbers: Numbers
) -> None:
    with closing(sqlite3.connect(numbers.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the first round hangs
        first = asyncio.create_task(insert(writer, 1))
        rows = [{"number": number} for number in range(2, 20)]
        tasks = [asyncio.create_task(writer.write(INSERT, [row])) for row in rows]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not first.done()
        assert len(writer._waiting) == 0  # noqa: SLF001 - memory is what a caller can't see
        other.execute("ROLLBACK")

    assert await first == 1
    assert numbers.read() == [1]


async def test_a_round_at_work_ends_before_the_writer_is_closed(numbers: Numbers) -> None:
    writer = Writer(numbers.connect)
    at_work = asyncio.create_task(insert(writer, 1))
    await asyncio.sleep(0)
    await writer.close()

    assert await at_work == 1
    assert numbers.read() == [1]


CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


async def test_the_log_is_brought_into_the_file_beside_the_writes(numbers: Numbers) -> None:
    writer = Writer(numbers.connect)
    before = numbers.path.stat().st_size
    for start in range(0, CHECKPOINT_ROWS, 50):
        assert CHECKPOINT not in numbers.told
        await insert(writer, *(f"{number}" * 500 for number in range(start, start + 50)))
    await writer.close()

    assert numbers.told.count(CHECKPOINT) == 1
    assert numbers.path.stat().st_size > before
    assert len(numbers.read()) == CHECKPOINT_ROWS


async def test_a_log_that_cannot_be_brought_in_stops_no_write(numbers: Numbers) -> None:
    writer = Writer(numbers.connect)
    await insert(writer, "first")
    numbers.most_pages = -1
    for start in range(0, 3 * CHECKPOINT_ROWS, 50):
        assert await insert(writer, *range(start, start + 50)) == 50
    await writer.close()

    assert CHECKPOINT not in numbers.told
    assert len(numbers.read()) == 3 * CHECKPOINT_ROWS + 1
