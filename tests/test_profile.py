"""Names and avatars are set beside the answer, each avatar once, and whatever goes wrong a login is a login."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from gateway import profile as module
from gateway.upstream.images import AT_ONCE
from tests.authority import Authority
from tests.fake_homeserver import FakeHomeserver, Fault, User
from tests.pictures import SVG, answer, png, redirect, serving
from tests.raw_http import RawServer, Script, read_message
from tests.running_gateway import SERVER_NAME, RunningGateway, mint, running_gateway
from tests.waiting import at_work, finished, until

JWT = {"display_name_claim": "name", "avatar_claim": "picture"}
EVERY: dict[str, Any] = {"display_name": "every_login", "avatar": "every_login"}
ALICE = f"user_id=@alice:{SERVER_NAME}"
NOWHERE = {"avatar_hosts": ["127.0.0.1:1"]}


@asynccontextmanager
async def before(
    homeserver: FakeHomeserver, directory: Path, server: RawServer | None = None, **profile: Any
) -> AsyncIterator[RunningGateway]:
    """A gateway that fetches from the server alone."""
    listed = NOWHERE if server is None else {"avatar_hosts": [f"127.0.0.1:{server.port}"]}
    async with running_gateway(directory, homeserver.url, jwt=JWT, profile={**listed, **profile}) as gateway:
        yield gateway


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with before(homeserver, tmp_path) as running:
        yield running


async def log_in(gateway: RunningGateway, picture: str, **claims: Any) -> None:
    assert (await gateway.log_in(mint(picture=picture, **claims))).status == 200


async def told(gateway: RunningGateway, event: str, **fields: str) -> None:
    """Wait for a line of the log; no address with its query is in it."""
    await until(lambda: event in gateway.log)
    line = next(line for line in gateway.log.splitlines() if event in line)
    assert all(value in line for value in (ALICE, *fields.values()))
    assert "secret" not in gateway.log


async def test_the_display_name_is_set_on_the_first_login_only(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    assert (await gateway.log_in(mint(name="Alice \u00c4"))).status == 200
    await until(lambda: homeserver.users["alice"].display_name == "Alice \u00c4")
    assert (await gateway.log_in(mint(name="Other"))).status == 200
    await finished("profile")
    assert homeserver.users["alice"].display_name == "Alice \u00c4"


async def test_the_profile_of_an_account_that_was_there_stays(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    theirs = User(display_name="of a person", avatar="mxc://example.org/theirs")
    homeserver.users["alice"] = theirs
    for _ in range(2):
        await log_in(gateway, "mxc://example.org/other", name="of the token")
    await finished("profile")
    assert (theirs.display_name, theirs.avatar) == ("of a person", "mxc://example.org/theirs")


async def test_the_display_name_of_an_account_whose_registration_broke_off_is_set(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["register"] = Fault(breaks="after")
    identity = {"existing_accounts": "refuse"}
    async with running_gateway(tmp_path, homeserver.url, identity=identity, jwt=JWT) as gateway:
        assert [(await gateway.log_in(mint(name="A"))).status for _ in range(2)] == [502, 200]
        await until(lambda: homeserver.users["alice"].display_name == "A")


@pytest.mark.parametrize(
    "fault", [Fault((403, "M_FORBIDDEN")), Fault((429, "M_LIMIT_EXCEEDED")), Fault(breaks="head", times=2)]
)
async def test_a_name_that_can_not_be_set_fails_no_login_and_keeps_no_avatar_away(
    fault: Fault, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["profile"] = Fault(fault.answer, breaks=fault.breaks, times=fault.times)
    await log_in(gateway, "mxc://example.org/a", name="A")
    await told(gateway, "profile_not_set")
    await until(lambda: homeserver.users["alice"].avatar == "mxc://example.org/a")


async def test_the_name_is_set_at_each_login_and_the_avatar_when_its_claim_changes(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.users["alice"] = User(avatar="mxc://example.org/theirs")
    async with before(homeserver, tmp_path, **EVERY) as gateway:
        for number, picture in enumerate(("a", "a", "b", "a")):
            await log_in(gateway, f"mxc://example.org/{picture}", name=str(number))
            await until(lambda: len(homeserver.to("/displayname")) == number + 1)  # noqa: B023
            await finished("profile")
    set_to = [seen.json()["avatar_url"].rpartition("/")[2] for seen in homeserver.to("/avatar_url")]
    assert set_to == ["a", "b", "a"]


async def test_nothing_is_set_where_the_settings_say_never(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with before(homeserver, tmp_path, display_name="never", avatar="never") as gateway:
        await log_in(gateway, "mxc://example.org/a", name="A")
    assert homeserver.users["alice"] == User("alice")  # as Synapse names its users


@pytest.mark.parametrize(
    "picture",
    [
        "http://127.0.0.1/secret",
        "data:image/png;base64,secret",
        "mxc://example.org/secret/x",
        "mxc:",
        "/secret",
        "javascript:secret",
    ],
)
async def test_another_address_is_left_alone(
    gateway: RunningGateway, homeserver: FakeHomeserver, picture: str
) -> None:
    await log_in(gateway, picture)
    await told(gateway, "avatar_left_alone")
    assert homeserver.to("/avatar_url") == []


async def test_an_image_is_fetched_and_uploaded_once(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    script = Script(answer(png(), "Content-Type: text/html"))
    async with serving(authority, script) as server:
        for _ in range(2):  # what is known outlives the process
            async with before(homeserver, tmp_path, server, **EVERY) as gateway:
                for _ in range(2):
                    await log_in(gateway, f"{server.url}/a.png?token=secret")
                    await until(lambda: homeserver.users["alice"].avatar)
                    await finished("profile")
    (upload,) = homeserver.to("/_matrix/media/v3/upload")
    assert upload.target.endswith("?user_id=%40alice%3Aexample.org")
    assert homeserver.media == {homeserver.users["alice"].avatar: ("image/png", png())}
    assert len(script.requests) == len(homeserver.to("/avatar_url")) == 1
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        assert "secret" not in str(list(database.execute("SELECT * FROM avatars")))


async def test_the_same_image_at_another_address_is_not_uploaded_again_and_another_image_is(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    script = Script(answer(png()), answer(png()), answer(png(1)))
    async with serving(authority, script) as server, before(homeserver, tmp_path, server, **EVERY) as gateway:
        for number in range(3):
            await log_in(gateway, f"{server.url}/a.png?signature={number}")
            await until(lambda: len(script.requests) == number + 1)  # noqa: B023
            await finished("profile")
    assert [octets for _, octets in homeserver.media.values()] == [png(), png(1)]
    assert [seen.json()["avatar_url"] for seen in homeserver.to("/avatar_url")] == list(homeserver.media)


async def test_an_account_made_anew_gets_its_avatar_again(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with before(homeserver, tmp_path) as gateway:
        await log_in(gateway, "mxc://example.org/a")
        await until(lambda: homeserver.users["alice"].avatar)
    homeserver.users.clear()
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        database.execute("DELETE FROM accounts")
        database.commit()
    async with before(homeserver, tmp_path) as gateway:
        await log_in(gateway, "mxc://example.org/a")
        await until(lambda: homeserver.users["alice"].avatar)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (answer(SVG, "Content-Type: image/png"), "no PNG, JPEG, GIF or WebP"),
        (answer(png() + b"\0" * 2000), "more than 2000 bytes"),
        (redirect("https://127.0.0.1/secret"), "is not in avatar_hosts"),
        (answer(b"secret", status="403 Forbidden"), "answered 403"),
    ],
)
async def test_an_image_that_is_not_taken_is_a_warning(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority, sent: bytes, reason: str
) -> None:
    async with (
        serving(authority, Script(sent)) as server,
        before(homeserver, tmp_path, server, avatar_max_bytes=2000) as gateway,
    ):
        await log_in(gateway, f"{server.url}/a.png?token=secret")
        await told(gateway, "profile_not_set", reason=reason)
    assert homeserver.to("/upload") == []


async def test_without_listed_hosts_addresses_of_ones_own_are_refused(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with before(homeserver, tmp_path, avatar_hosts=[]) as gateway:
        await log_in(gateway, "https://localhost/secret")
        await told(gateway, "profile_not_set", reason="is no public address")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault((413, "M_TOO_LARGE")), "avatar_max_bytes"),
        (Fault((403, "M_FORBIDDEN")), "could not upload the avatar"),
        (Fault((429, "M_LIMIT_EXCEEDED")), "M_LIMIT_EXCEEDED"),
        (Fault((500, "M_UNKNOWN")), "could not upload the avatar"),
        (Fault((200, "no content_uri")), "named nothing"),
        (Fault((200, ""), extra={"content_uri": "https://127.0.0.1/secret"}), "named nothing"),
        (Fault((200, ""), extra={"content_uri": 7}), "named nothing"),
        (Fault(breaks="head", times=2), "broke off"),
    ],
)
async def test_an_upload_that_fails_is_a_warning_and_is_made_up_for_at_the_next_login(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority, fault: Fault, reason: str
) -> None:
    homeserver.faults["upload"] = Fault(fault.answer, extra=fault.extra, breaks=fault.breaks, times=fault.times)
    async with (
        serving(authority, Script(answer(png()))) as server,
        before(homeserver, tmp_path, server, **EVERY) as gateway,
    ):
        await log_in(gateway, f"{server.url}/a.png?token=secret")
        await told(gateway, "profile_not_set", reason=reason)
        assert homeserver.to("/avatar_url") == []
        await log_in(gateway, f"{server.url}/a.png?token=secret")
        await until(lambda: homeserver.users["alice"].avatar)


async def test_an_avatar_that_is_uploaded_and_can_not_be_set_is_not_uploaded_again(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    homeserver.faults["profile"] = Fault((403, "M_FORBIDDEN"), times=2)
    async with (
        serving(authority, Script(answer(png()))) as server,
        before(homeserver, tmp_path, server, **EVERY) as gateway,
    ):
        for number in range(3):
            await log_in(gateway, server.url)
            await until(lambda: len(homeserver.to("/avatar_url")) == number + 1)  # noqa: B023
            await finished("profile")
    assert len(homeserver.to("/upload")) == 1
    assert [homeserver.users["alice"].avatar] == list(homeserver.media)


async def test_a_homeserver_that_goes_down_after_the_login_fails_nothing(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        await homeserver.stop()
        writer.write(answer(png()))

    async with serving(authority, handler) as server, before(homeserver, tmp_path, server) as gateway:
        await log_in(gateway, server.url)
        await told(gateway, "profile_not_set", reason="HOMESERVER_UNREACHABLE")


class Gate:
    """A server of images that holds its answers back; `most` is how many waited at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = self.most = self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        self.requests += 1
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.open.wait()
        self.waiting -= 1
        writer.write(answer(png()))
        await writer.drain()


async def test_few_images_are_fetched_at_once_and_no_login_waits_for_one(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    gate = Gate()
    names = [f"user{number}" for number in range(10)]
    async with serving(authority, gate) as server, before(homeserver, tmp_path, server) as gateway:
        for name in names:
            assert (await gateway.log_in(mint(name, picture=server.url))).status == 200
        await until(lambda: gate.waiting == AT_ONCE)
        gate.open.set()
        await until(lambda: all(homeserver.users[name].avatar for name in names))
    assert (gate.most, gate.requests) == (AT_ONCE, 10)


async def test_of_several_logins_of_a_user_one_fetches(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority
) -> None:
    gate = Gate()
    async with serving(authority, gate) as server, before(homeserver, tmp_path, server, **EVERY) as gateway:
        for number in range(5):
            await log_in(gateway, f"{server.url}/{number}")
        await until(lambda: gate.waiting and at_work("profile") == 1)
        gate.open.set()
        await until(lambda: homeserver.users["alice"].avatar)
    assert gate.requests == 1


async def test_profiles_that_would_wait_too_long_are_dropped_with_a_warning(
    tmp_path: Path, homeserver: FakeHomeserver, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    gate = Gate()
    async with serving(authority, gate) as server, before(homeserver, tmp_path, server) as gateway:
        for number in range(5):
            assert (await gateway.log_in(mint(f"user{number}", picture=server.url))).status == 200
        await until(lambda: gateway.log.count("3 profiles are being set already") == 2)
        gate.open.set()
        await until(lambda: sum(user.avatar is not None for user in homeserver.users.values()) == 3)
