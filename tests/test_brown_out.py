"""While a part that logins need is broken, everything else passes through, and logins go on by themselves after."""

import asyncio
import resource
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gateway import limits
from tests.benchmarks.processes import ask, processor_seconds
from tests.beside import locked
from tests.conftest import fill
from tests.fake_homeserver import FakeHomeserver, Fault
from tests.fake_issuer import running_issuer
from tests.faults.nodes import VERSIONS, made_node, running_homeserver
from tests.running_gateway import RunningGateway, mint, running_gateway
from tests.waiting import at_work, until

SYNC = "/_matrix/client/v3/sync"


async def passes(gateway: RunningGateway) -> bool:
    """Whether a request that is no login reaches the homeserver at once."""
    begun = time.monotonic()
    answer = await gateway.call("GET", SYNC)
    return answer.status == 404 and answer.body["errcode"] == "M_UNRECOGNIZED" and time.monotonic() - begun < 0.5


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (Fault((500, "M_UNKNOWN"), times=-1), "5"),
        (Fault((503, "M_UNKNOWN"), times=-1), "5"),
        (Fault(breaks="head", times=-1), "5"),
        # No login of application services, which waiting does not mend.
        (Fault((404, "M_UNRECOGNIZED"), times=-1), None),
    ],
)
async def test_a_homeserver_whose_login_is_broken_is_asked_again_by_the_next(
    fault: Fault, retry_after: str | None, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        homeserver.faults["login"] = fault
        for _ in range(3):
            answer = await gateway.log_in(mint())
            assert (answer.status, answer.headers.get("Retry-After")) == (502, retry_after)
            assert await passes(gateway)
        homeserver.faults.clear()
        assert (await gateway.log_in(mint())).status == 200


async def test_more_logins_than_may_wait_for_a_homeserver_that_hangs_are_refused_at_once(
    tmp_path: Path, homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_LOGINS", 3)
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        go_on = asyncio.Event()
        homeserver.faults["login"] = Fault(wait=go_on, times=-1)
        waiting = [asyncio.create_task(gateway.log_in(mint())) for _ in range(3)]
        await until(lambda: len(homeserver.to("/login")) == 4)
        for _ in range(10):
            answer = await gateway.log_in(mint())
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert answer.body["error"] == "Login with a token is not available for the moment"
            assert (await gateway.log_in(mint(exp=1))).status == 403  # who has no good token learns nothing of it
        assert await passes(gateway)
        assert at_work("login") == 3
        assert "3 logins are at work already" in gateway.log
        go_on.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 3
        homeserver.faults.clear()
        assert (await gateway.log_in(mint())).status == 200


async def test_a_database_that_is_locked_refuses_first_logins_alone(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        async with locked(tmp_path):
            first_logins = [asyncio.create_task(gateway.log_in(mint(f"user{number}"))) for number in range(20)]
            assert (await gateway.log_in(mint())).status == 200
            assert await passes(gateway)
            answers = await asyncio.gather(*first_logins)
        assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(503, "5")}
        assert (await gateway.log_in(mint("user0"))).status == 200
        assert homeserver.registered == 2


async def test_a_disk_that_is_full_uses_no_token_up(
    tmp_path: Path, small_disk: Path, homeserver: FakeHomeserver
) -> None:
    database = {"url": f"sqlite:///{small_disk}/gateway.db"}
    async with running_gateway(tmp_path, homeserver.url, database=database, jwt={"single_use": True}) as gateway:
        assert (await gateway.log_in(mint(jti="first"))).status == 200
        fill(small_disk)
        token = mint(jti="second")
        assert {(await gateway.log_in(token)).status for _ in range(3)} == {503}
        assert await passes(gateway)
        (small_disk / "filler").unlink()
        assert [(await gateway.log_in(token)).status for _ in range(2)] == [200, 403]


async def test_a_key_set_that_cannot_be_fetched_stops_the_logins_of_its_issuer_alone(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_issuer() as issuer:
        jwt = {
            "issuers": [
                {"issuer": ["theirs"], "format": "JWKS", "algorithm": "ES256", "jwks_url": issuer.jwks_url},
                {"issuer": ["ours"], "secret": "s" * 32},
            ]
        }
        await issuer.stop()
        async with running_gateway(tmp_path, homeserver.url, jwt={"secret": None, **jwt}) as gateway:
            answer = await gateway.log_in(issuer.mint(iss="theirs"))
            assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
            assert (await gateway.log_in(mint(iss="ours", secret="s" * 32))).status == 200
            assert await passes(gateway)


def test_connections_beyond_the_open_files_wait_and_are_served(tmp_path: Path) -> None:
    with running_homeserver(tmp_path) as behind, made_node(tmp_path, behind, {}) as node:
        node.start()
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (120, 120))
        with ExitStack() as stack:
            waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", node.port))) for _ in range(300)]
            for client in waiting:
                client.settimeout(10)
                with suppress(OSError):  # it was idle, and given up for another one
                    client.sendall(b"GET /_matrix/client/v3/sync?timeout=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
            used = processor_seconds(node.pid)
            answers = Counter(map(status, waiting))
            assert processor_seconds(node.pid) - used < 0.5  # it does not spin
        assert answers["200"] > 0
        assert set(answers) <= {"200", "502", "ended"}
        assert answers["ended"] < 150
        assert ask(node.port, VERSIONS)[0] == 200
        assert node.log.count("accept_failed") == 1
        assert "Traceback" not in node.log


def status(client: socket.socket) -> str:
    """The status of an answer, or that there is none."""
    try:
        return client.recv(12)[9:].decode() or "ended"
    except ConnectionResetError:
        return "ended"
