"""Every attempt is told with who made it, and with nothing that an unverified token says."""

import asyncio
import io
import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import app
from gateway.config import load
from gateway.logs import LogSettings, get_logger
from tests.beside import change, locked
from tests.conftest import fill
from tests.fake_homeserver import FakeHomeserver, Fault, User
from tests.raw_http import connected
from tests.running_gateway import AS_TOKEN, LOGIN, SECRET, SERVER_NAME, mint, running_gateway, write_configuration
from tests.waiting import finished, until

ALICE = f"@alice:{SERVER_NAME}"
ISSUED: Mapping[str, Any] = {"issuer": ["us"]}
COLUMNS = ("outcome", "user_id", "issuer", "subject", "device_id", "address", "user_agent", "reason", "request_id")


def attempts(directory: Path) -> list[dict[str, str]]:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        rows = database.execute(f"SELECT {', '.join(COLUMNS)} FROM logins ORDER BY id")
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def dump(directory: Path) -> str:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        return "\n".join(map(str, database.execute("SELECT * FROM logins")))


async def test_a_session_is_told_with_all_that_is_known(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    before = time.time()
    async with running_gateway(tmp_path, homeserver.url, jwt=ISSUED) as gateway:
        body = {"type": "org.matrix.login.jwt", "token": mint(iss="us")}
        fields = {"X_Forwarded_For": "203.0.113.5", "User_Agent": "Element/1", "X_Request_Id": "edge-1"}
        answer = await gateway.call("POST", LOGIN, body, **fields)
    (attempt,) = attempts(tmp_path)
    assert attempt == {
        "outcome": "ok",
        "user_id": ALICE,
        "issuer": "us",
        "subject": "alice",
        "device_id": answer.body["device_id"],
        "address": "203.0.113.5",
        "user_agent": "Element/1",
        "reason": "",
        "request_id": "edge-1",
    }
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        ((at_ms,),) = database.execute("SELECT at_ms FROM logins")
    assert before - 1 < at_ms / 1000 < time.time() + 1


@pytest.mark.parametrize(
    ("token", "outcome", "known"),
    [
        (lambda: None, "token_missing", {}),
        (lambda: 7, "token_missing", {}),
        (lambda: "abc", "undecodable", {}),
        (lambda: mint(iss="us", secret="x" * 32), "bad_signature", {}),
        (lambda: mint(iss="us", algorithm="HS512"), "unsupported_algorithm", {}),
        (lambda: mint(iss="us", exp=1), "expired", {"issuer": "us", "subject": "alice"}),
        (lambda: mint(iss="them"), "claim_invalid", {"issuer": "them", "subject": "alice"}),
        (lambda: mint(iss=7), "claim_invalid", {"subject": "alice"}),
        (lambda: mint(None, iss="us"), "subject_missing", {"issuer": "us"}),
        (lambda: mint("al ice", iss="us"), "bad_localpart", {"issuer": "us", "subject": "al ice"}),
        (lambda: mint("admin", iss="us"), "identity_refused", {"issuer": "us", "subject": "admin"}),
        (
            lambda: mint("gone", iss="us"),
            "by_homeserver",
            {
                "issuer": "us",
                "subject": "gone",
                "user_id": f"@gone:{SERVER_NAME}",
                "reason": "403 M_USER_DEACTIVATED",
            },
        ),
    ],
)
async def test_a_refusal_is_told_with_what_was_proven(
    token: Any, outcome: str, known: dict[str, str], tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.users["gone"] = User(deactivated=True)
    tables = {"jwt": ISSUED, "identity": {"deny": ["^admin$"]}}
    async with running_gateway(tmp_path, homeserver.url, **tables) as gateway:
        assert (await gateway.log_in(token())).status in {400, 403}
        log = gateway.log
    (attempt,) = attempts(tmp_path)
    assert attempt["outcome"] == outcome
    assert f"refusal={outcome}" in log
    assert attempt["address"] == "127.0.0.1"
    assert {name: attempt[name] for name in ("issuer", "subject", "user_id")} == {
        "issuer": "",
        "subject": "",
        "user_id": "",
        **{name: value for name, value in known.items() if name != "reason"},
    }
    assert known.get("reason", attempt["reason"]) == attempt["reason"]


async def test_a_homeserver_that_is_down_is_told_with_the_user_and_the_device_asked_for(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        await homeserver.stop()
        assert (await gateway.log_in(mint(), device_id="PHONE")).status == 502
    (attempt,) = attempts(tmp_path)
    assert (attempt["outcome"], attempt["user_id"], attempt["device_id"]) == (
        "homeserver_unreachable",
        ALICE,
        "PHONE",
    )


async def test_a_login_whose_client_went_away_is_told(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    go_on = asyncio.Event()
    homeserver.faults["login"] = Fault(wait=go_on)
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        async with connected(gateway.port) as client:
            head = f"POST {LOGIN} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body)
            await until(lambda: homeserver.to("/login"))
            client.reset()
        go_on.set()
    assert [(attempt["outcome"], attempt["user_id"]) for attempt in attempts(tmp_path)] == [("ok", ALICE)]


async def test_whoever_is_not_verified_is_not_named(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    path = write_configuration(tmp_path, homeserver.url, {"jwt": {"validate_signature": False}})
    configuration = load(path, {"MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED": "1"})
    async with (
        app.running(configuration, get_logger(LogSettings(), io.StringIO())) as running,
        aiohttp.ClientSession() as client,
    ):
        for token in (mint(secret=SECRET[::-1]), mint(exp=1)):
            body = {"type": "org.matrix.login.jwt", "token": token}
            async with client.post(f"http://{running.addresses[0]}{LOGIN}", json=body) as answer:
                await answer.read()
    opened, refused = attempts(tmp_path)
    assert (opened["outcome"], opened["user_id"], opened["issuer"], opened["subject"]) == ("ok", ALICE, "", "")
    assert opened["reason"] == "its signature was not checked"
    assert (refused["outcome"], refused["user_id"], refused["subject"]) == ("expired", "", "")


async def test_what_is_no_jwt_login_is_not_told(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        await gateway.call("POST", LOGIN, {"type": "m.login.sso", "token": "x"})
        await gateway.call("POST", LOGIN, ["alice"])
    assert attempts(tmp_path) == []


async def test_no_token_ever_stands_in_the_trail(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    tokens = [mint(), mint(secret="z" * 40), mint(exp=1), mint() + "x", "not-a-token-at-all", mint("ALICE")]
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        for token in tokens:
            await gateway.log_in(token)
        path = f"{LOGIN}?access_token=query-secret"
        body = {"type": "org.matrix.login.jwt", "token": tokens[1]}
        await gateway.call("POST", path, body, Authorization="Bearer header-secret")
    text = dump(tmp_path)
    assert len(attempts(tmp_path)) == len(tokens) + 1
    for secret in (*tokens, SECRET, AS_TOKEN, "query-secret", "header-secret", *homeserver.sessions):
        assert secret not in text
        assert secret.rpartition(".")[2] not in text


async def test_no_login_waits_for_the_trail_or_fails_with_it(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        await finished("last_seen")
        async with locked(tmp_path):
            async with asyncio.timeout(1):
                for _ in range(5):
                    assert (await gateway.log_in(mint())).status == 200
                    assert (await gateway.log_in(mint(exp=1))).status == 403
        await change(tmp_path, "DROP TABLE logins")
        assert (await gateway.log_in(mint())).status == 200
        await until(lambda: "audit_not_written" in gateway.log)
        assert (await gateway.log_in(mint())).status == 200


async def test_a_full_disk_refuses_nobody_who_has_an_account(
    tmp_path: Path, small_disk: Path, homeserver: FakeHomeserver
) -> None:
    database = {"url": f"sqlite:///{small_disk}/gateway.db"}
    async with running_gateway(tmp_path, homeserver.url, database=database) as gateway:
        assert (await gateway.log_in(mint("alice"))).status == 200
        fill(small_disk)
        for _ in range(20):
            assert (await gateway.log_in(mint("alice"))).status == 200
        await until(lambda: "audit_not_written" in gateway.log)
        assert (await gateway.log_in(mint("bob"))).status == 503
        assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200
        (small_disk / "filler").unlink()
        assert (await gateway.log_in(mint("bob"))).status == 200
        await until(lambda: "audit_written_again" in gateway.log)
    with closing(sqlite3.connect(small_disk / "gateway.db")) as kept:
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)
