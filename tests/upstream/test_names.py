"""Names whose servers are silent keep nobody else's waiting."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from gateway.upstream.fetching import NotFetched
from gateway.upstream.key_sets import KeySetClient
from gateway.upstream.names import Resolver

SILENT = "silent.example"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What ends the silence of the server that knows the silent name."""
    event = threading.Event()
    system = socket.getaddrinfo

    def ask(host: Any, *others: Any, **further: Any) -> Any:
        if host == SILENT:
            event.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return system(host, *others, **further)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return event


async def test_issuers_whose_names_are_silent_leave_the_loops_threads_to_others(answered: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(2))  # as many as uvloop has for names
    clients = [KeySetClient(f"https://{SILENT}/{number}", timeout=1) for number in range(4)]
    fetches = [asyncio.ensure_future(client.fetch()) for client in clients]
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(0.5):
            assert await loop.getaddrinfo("127.0.0.1", 80)
        for fetch in fetches:
            with pytest.raises(NotFetched, match="takes longer than 1 s"):
                await fetch
    finally:
        answered.set()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_name_becomes_its_addresses(run: Any) -> None:
    async def main() -> None:
        found = await Resolver(1).resolve("localhost", 80)
        assert {entry["host"] for entry in found} <= {"127.0.0.1", "::1"}
        assert {(entry["hostname"], entry["port"]) for entry in found} == {("localhost", 80)}

    run(main())
