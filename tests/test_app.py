"""The whole program: started from a file, stopped by a signal, its state kept."""

import asyncio
import io
import itertools
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from gateway import app
from gateway.config import load
from gateway.errors import Unusable
from gateway.logs import LogSettings, get_logger
from tests.beside import change
from tests.fake_homeserver import FakeHomeserver, Fault
from tests.fake_issuer import new_key, public, sign
from tests.raw_http import connected
from tests.running_gateway import LOGIN, SECRET, Tables, mint, running_gateway, write_configuration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it(
    number: signal.Signals, tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"listen": [f"127.0.0.1:{unused_tcp_port}"]}
    configuration = load(write_configuration(tmp_path, homeserver.url, {"server": server}), {})
    serving = asyncio.create_task(app.serve(configuration))
    async with asyncio.timeout(10):
        while not await is_open(unused_tcp_port):
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), number)
        await serving
    assert not await is_open(unused_tcp_port)


async def is_open(port: int) -> bool:
    try:
        async with connected(port):
            return True
    except OSError:
        return False


async def test_when_a_login_was_is_written_at_the_latest_when_it_stops(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        await change(tmp_path, "UPDATE accounts SET last_seen_at = 0")
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        assert database.execute("SELECT last_seen_at > 0 FROM accounts").fetchall() == [(1,)]


async def test_it_leaves_nothing_running(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    before = asyncio.all_tasks()
    async with running_gateway(tmp_path, homeserver.url) as gateway, connected(gateway.port) as client:
        await client.send(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answer()
        assert (await gateway.log_in(mint())).status == 200
    await asyncio.sleep(0.02)
    assert {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)} == set()


async def test_a_database_that_is_none_is_said_so(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    (tmp_path / "gateway.db").write_bytes(b"no database at all, but a text that is long enough to be read" * 99)
    configuration = load(write_configuration(tmp_path, homeserver.url, {}), {})
    with pytest.raises(Unusable, match=r"gateway\.db"):
        async with app.running(configuration, get_logger(LogSettings())):
            pass


async def test_signatures_that_are_not_checked_are_warned_of_at_each_start_and_login(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    log = io.StringIO()
    path = write_configuration(tmp_path, homeserver.url, {"jwt": {"validate_signature": False}})
    configuration = load(path, {"MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED": "1"})
    async with app.running(configuration, get_logger(LogSettings(level="debug"), log)) as running:
        port = int(running.addresses[0].rpartition(":")[2])
        body = b'{"type": "org.matrix.login.jwt", "token": "%s"}' % mint(secret="x" * 40).encode()
        async with connected(port) as client:
            head = b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            await client.send(head % len(body) + body)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert "signatures_are_not_checked" in log.getvalue()
    assert "signature_not_checked" in log.getvalue()


async def test_a_reload_uses_another_key_from_the_next_login_on(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    (tmp_path / "jwt.secret").write_text("the first secret, which is 32 bytes or more")
    tables = {"secret": [], "secret_file": "jwt.secret"}
    async with running_gateway(tmp_path, homeserver.url, jwt=tables) as gateway:
        assert (await gateway.log_in(mint(secret="the first secret, which is 32 bytes or more"))).status == 200
        (tmp_path / "jwt.secret").write_text("the second secret, which is 32 bytes or more")
        await gateway.running.reload()
        assert (await gateway.log_in(mint(secret="the first secret, which is 32 bytes or more"))).status == 403
        assert (await gateway.log_in(mint(secret="the second secret, which is 32 bytes or more"))).status == 200
    assert "reloaded" in gateway.log


async def test_keys_rotate_under_load_without_one_good_token_refused(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    def rotate_to(*secrets: str) -> None:
        tables: Tables = {"jwt": {"secret": [f"{secret} secret, which is 32 bytes or more" for secret in secrets]}}
        write_configuration(tmp_path, homeserver.url, tables)

    signing = "first"
    statuses: list[int] = []

    async def log_in_until(stop: asyncio.Event, name: str) -> None:
        while not stop.is_set():
            token = mint(name, secret=f"{signing} secret, which is 32 bytes or more")
            statuses.append((await gateway.log_in(token)).status)

    rotate_to("first")
    async with running_gateway(
        tmp_path, homeserver.url, jwt={"secret": f"{signing} secret, which is 32 bytes or more"}
    ) as gateway:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for number in range(4):
                clients.create_task(log_in_until(stop, f"user{number}"))
            for before, after in itertools.pairwise(("first", "second", "third", "fourth")):
                rotate_to(before, after)
                await gateway.running.reload()
                signing = after
                await asyncio.sleep(0.1)  # what is on its way is still signed with the key before
                rotate_to(after)
                await gateway.running.reload()
            stop.set()
    assert set(statuses) == {200}
    assert len(statuses) > 20


@pytest.mark.parametrize("broken", ['[jwt]\nsecret = "short"\n', "[jwt", "[jwt]\nunknown = 1\n"])
async def test_a_reload_that_fails_changes_nothing_and_says_why(
    broken: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        gateway.configuration.path.write_text(broken, encoding="utf-8")
        await gateway.running.reload()
        assert (await gateway.log_in(mint())).status == 200
    assert "reload_failed" in gateway.log
    assert "gateway.toml" in gateway.log
    assert "stays in use" in gateway.log


async def test_a_reload_in_the_moment_in_which_a_key_file_is_empty_keeps_the_keys(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    key = new_key("a")
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [public(key)]}), encoding="utf-8")
    jwt = {"secret": [], "format": "JWKS", "algorithm": "ES256", "jwks_file": keys.name}
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt) as gateway:
        keys.write_text("", encoding="utf-8")
        assert "jwks_file: it can't be read" in await gateway.running.reload()
        assert (await gateway.log_in(sign(key, {"sub": "alice"}))).status == 200


async def test_a_request_that_began_before_a_reload_ends_as_it_began(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    go_on = asyncio.Event()
    homeserver.faults["slow"] = Fault(wait=go_on)
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        async with connected(gateway.port) as client:
            await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            await homeserver.arrived.wait()
            write_configuration(tmp_path, "http://127.0.0.1:1", {})  # nothing answers there
            await gateway.running.reload()
            go_on.set()
            assert (await client.answer()).startswith(b"HTTP/1.1 404 ")
        assert (await gateway.call("GET", "/_matrix/client/versions")).status == 502


async def test_a_reload_names_what_only_a_restart_changes(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        tables: Tables = {"server": {"reuse_port": True}, "log": {"format": "json"}}
        write_configuration(tmp_path, homeserver.url, tables)
        await gateway.running.reload()
    assert "after_restart='server.reuse_port log.format'" in gateway.log


async def test_sighup_reloads(tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int) -> None:
    tables = {"server": {"listen": [f"127.0.0.1:{unused_tcp_port}"]}}
    path = write_configuration(tmp_path, homeserver.url, tables)
    serving = asyncio.create_task(app.serve(load(path, {})))
    async with asyncio.timeout(10):
        while not await is_open(unused_tcp_port):
            await asyncio.sleep(0.02)
        write_configuration(tmp_path, "http://127.0.0.1:1", tables)
        os.kill(os.getpid(), signal.SIGHUP)
        status = b""
        while b" 502 " not in status:
            async with connected(unused_tcp_port) as client:
                await client.send(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n")
                status = (await client.answer()).partition(b"\r\n")[0]
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


async def test_where_signatures_are_not_checked_a_token_as_password_is_taken_too(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"validate_signature": False, "accept_in_password": True}
    path = write_configuration(tmp_path, homeserver.url, {"jwt": jwt})
    configuration = load(path, {"MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED": "1"})
    body = {"type": "m.login.password", "user": "alice", "password": mint(secret=SECRET[::-1])}
    async with (
        app.running(configuration, get_logger(LogSettings(), io.StringIO())) as running,
        aiohttp.ClientSession() as client,
        client.post(f"http://{running.addresses[0]}{LOGIN}", json=body) as answer,
    ):
        assert answer.status == 200
