"""Work beside the requests: kept, waited for, and its failures told."""

import asyncio
import io

from gateway.logs import LogSettings, get_logger
from gateway.tasks import Background


def background() -> tuple[Background, io.StringIO]:
    log = io.StringIO()
    return Background(get_logger(LogSettings(), log)), log


async def test_a_task_gives_its_result() -> None:
    tasks, _ = background()

    async def work() -> int:
        return 7

    assert await tasks.spawn(work(), "work") == 7
    await tasks.close(0)


async def test_a_failure_that_nobody_waits_for_is_logged() -> None:
    tasks, log = background()

    async def work() -> None:
        raise ValueError("what went wrong")

    tasks.leave(work(), "the work")
    await tasks.close(1)
    assert "the work" in log.getvalue()
    assert "what went wrong" in log.getvalue()


async def test_the_end_waits_for_what_runs_and_for_what_that_leaves_behind() -> None:
    tasks, _ = background()
    done = []

    async def second() -> None:
        await asyncio.sleep(0.02)
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0.02)
        done.append("first")
        tasks.leave(second(), "second")

    tasks.leave(first(), "first")
    await tasks.close(5)
    assert done == ["first", "second"]


async def test_what_is_late_is_cancelled_without_a_word() -> None:
    tasks, log = background()
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks.leave(hang(), "hang")
    await asyncio.sleep(0)
    await tasks.close(0.01)
    assert ended.is_set()
    assert log.getvalue() == ""
