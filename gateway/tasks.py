"""Work that goes on beside or beyond a request: kept until it ends, its failure logged, waited for at the end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.logs import Logger

T = TypeVar("T")


class Background:
    """The running tasks. A bare task may be collected while it runs, and its failure is lost."""

    def __init__(self, log: Logger) -> None:
        self.log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start `work`; whoever awaits the task gets its result and its failure."""
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the one place
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def share(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start `work` whose end several may wait for, by `asyncio.wait`; a failure is logged."""
        task = self.spawn(work, name)
        task.add_done_callback(self._report)
        return task

    def leave(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start `work` that nobody waits for; a failure is logged."""
        self.spawn(work, name).add_done_callback(self._report)

    async def close(self, patience: float) -> None:
        """Wait up to `patience` seconds for what still runs, then cancel it."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + patience
        # A login that ends may leave a profile to be set.
        while self._tasks and (left := ends - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("background_task_failed", task=task.get_name(), error=repr(error))
