"""The session method says at the start where it can't work, and keeps quiet where that is not known."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fake_homeserver import JWT_SECRET, running_homeserver
from tests.fake_mas import running_mas
from tests.fake_server import Fault
from tests.flavours import BEHIND_MAS, FLAVOURS, SYNAPSE, Flavour
from tests.running_gateway import RunningGateway, mint, running_gateway

WARNING = "session_method_does_not_fit"


async def checked(gateway: RunningGateway, done: Callable[[], bool]) -> str:
    """What the log says of the check."""
    gateway.running.check_session_method()
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    return gateway.log


@asynccontextmanager
async def before(
    directory: Path, flavour: Flavour, **tables: Mapping[str, object]
) -> AsyncIterator[tuple[RunningGateway, Callable[[], bool]]]:
    async with running_homeserver(flavour) as homeserver:
        async with running_gateway(directory, homeserver.url, **tables) as gateway:
            yield gateway, lambda: bool(homeserver.to("/login"))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_a_homeserver_with_a_login_of_its_own_fits(flavour: Flavour, tmp_path: Path) -> None:
    async with before(tmp_path, flavour) as (gateway, done):
        assert WARNING not in await checked(gateway, done)


async def test_the_application_service_login_does_not_fit_behind_mas(tmp_path: Path) -> None:
    async with before(tmp_path, BEHIND_MAS) as (gateway, done):
        log = await checked(gateway, done)
    assert WARNING in log
    assert "as behind Matrix Authentication Service" in log


async def test_jwt_does_not_fit_where_the_homeserver_has_none(tmp_path: Path) -> None:
    session = {"method": "jwt", "jwt_secret": JWT_SECRET, "as_token": None}
    async with before(tmp_path, SYNAPSE, session=session) as (gateway, done):
        assert "org.matrix.login.jwt is not among the logins" in await checked(gateway, done)


async def test_a_homeserver_that_is_down_is_no_warning(tmp_path: Path) -> None:
    async with running_homeserver() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        await homeserver.stop()
        log = await checked(gateway, lambda: "session_method_not_checked" in gateway.log)
    assert WARNING not in log


async def test_nothing_is_asked_where_jwt_login_is_off(tmp_path: Path) -> None:
    async with running_homeserver() as homeserver:
        async with running_gateway(tmp_path, homeserver.url, jwt={"enable": False}) as gateway:
            gateway.running.check_session_method()
            await asyncio.sleep(0.1)
        assert homeserver.seen == []


async def test_mas_does_not_fit_where_it_does_not_let_us_in(tmp_path: Path) -> None:
    async with running_mas() as mas, running_gateway(tmp_path, mas.homeserver.url, session=mas.settings) as gateway:
        assert WARNING not in await checked(gateway, lambda: bool(mas.seen))
        mas.tokens.clear()
        mas.faults["token"] = Fault((401, ""))
        assert "must be those of a client" in await checked(gateway, lambda: WARNING in gateway.log)


async def test_mas_does_not_fit_where_the_address_is_the_homeserver_s_own(tmp_path: Path) -> None:
    async with running_mas() as mas, running_gateway(tmp_path, mas.homeserver.url, session=mas.settings) as gateway:
        mas.homeserver.compat_flows = None
        log = await checked(gateway, lambda: WARNING in gateway.log)
    assert "[homeserver] url must be an address that leads /login, /logout and /refresh to Matrix" in log


async def test_a_reload_looks_again_and_takes_the_new_method(tmp_path: Path) -> None:
    async with running_mas() as mas, running_gateway(tmp_path, mas.homeserver.url) as gateway:
        path = gateway.configuration.path
        text = path.read_text()
        settings = "\n".join(f'{key} = "{value}"' for key, value in mas.settings.items() if value)
        path.write_text(text.replace("[session]", f"[session]\n{settings}"))

        assert await gateway.running.reload() == ""
        async with asyncio.timeout(5):
            while not mas.seen:
                await asyncio.sleep(0.01)
        assert (await gateway.log_in(mint())).status == 200
        assert await gateway.running.reload() == ""
        assert (await gateway.log_in(mint())).status == 200
        assert len(mas.open_sessions) == 2
