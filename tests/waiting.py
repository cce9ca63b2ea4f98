"""Waiting for what has to happen: as long as it takes, and no longer than a test may."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], patience: float = 10) -> None:
    """Wait until the condition holds, up to `patience` seconds."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.005)


def at_work(name: str) -> int:
    """How many tasks of that name the gateway has in this loop."""
    return sum(task.get_name() == name for task in asyncio.all_tasks())


async def finished(name: str) -> None:
    """Wait until the gateway has no task of that name any more in this loop."""
    await until(lambda: not at_work(name))
