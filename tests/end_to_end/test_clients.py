"""Real clients on a real Synapse through the gateway: log in with a token, then everything that a session is for."""

import io
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import nio
import pytest
from mautrix.api import HTTPAPI
from mautrix.client import Client
from mautrix.types import LoginType, MessageType, RoomID, TextMessageEventContent, UserID

from tests.real_synapse import RealSynapse
from tests.running_gateway import RunningGateway, mint, running_gateway


@pytest.fixture
async def gateway(tmp_path: Path, synapse: RealSynapse) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, synapse.url, jwt={"display_name_claim": "name"}) as running:
        yield running


async def test_matrix_nio_logs_in_syncs_sends_and_moves_media(gateway: RunningGateway, localpart: str) -> None:
    client = nio.AsyncClient(gateway.url)
    try:
        login = await client.login_raw({"type": "org.matrix.login.jwt", "token": mint(localpart)})
        assert isinstance(login, nio.LoginResponse)
        assert login.user_id == f"@{localpart}:example.org"
        room = await client.room_create(name="A room")
        assert isinstance(room, nio.RoomCreateResponse)
        sent = await client.room_send(room.room_id, "m.room.message", {"msgtype": "m.text", "body": "Hello"})
        assert isinstance(sent, nio.RoomSendResponse)
        sync = await client.sync(timeout=0)
        assert isinstance(sync, nio.SyncResponse)
        assert room.room_id in sync.rooms.join
        picture = secrets.token_bytes(300_000)
        uploaded, _ = await client.upload(io.BytesIO(picture), content_type="image/png", filesize=len(picture))
        assert isinstance(uploaded, nio.UploadResponse)
        downloaded = await client.download(uploaded.content_uri)
        assert isinstance(downloaded, nio.MemoryDownloadResponse | nio.DownloadResponse)
        assert downloaded.body == picture
        assert isinstance(await client.logout(), nio.LogoutResponse)
    finally:
        await client.close()


async def test_mautrix_finds_the_flow_and_logs_in(gateway: RunningGateway, localpart: str) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(api=HTTPAPI(gateway.url, client_session=session))
        flows = await client.get_login_flows()
        assert LoginType.UNSTABLE_JWT in {flow.type for flow in flows.flows}
        login = await client.login(
            login_type=LoginType.UNSTABLE_JWT, token=mint(localpart), device_id="DEVICE", store_access_token=True
        )
        assert login.user_id == UserID(f"@{localpart}:example.org")
        assert login.device_id == "DEVICE"
        room: RoomID = await client.create_room(name="A room")
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body="Hello")
        assert await client.send_message(room, content)
        assert room in (await client.get_joined_rooms())


async def test_the_second_login_is_the_same_user_with_another_session(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    first = await gateway.log_in(mint(localpart))
    second = await gateway.log_in(mint(localpart))

    assert first.status == second.status == 200
    assert first.body["user_id"] == second.body["user_id"]
    assert first.body["access_token"] != second.body["access_token"]
    assert (await synapse.whoami(first.body["access_token"])).status == 200


async def test_the_display_name_of_the_token_is_set_at_first_login(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    answer = await gateway.log_in(mint(localpart, name="Alice Example"))

    async def shown() -> object:
        return (await synapse.call("GET", f"/_matrix/client/v3/profile/{answer.body['user_id']}")).body["displayname"]

    for _ in range(100):
        if await shown() == "Alice Example":
            break
    assert await shown() == "Alice Example"


async def test_a_refresh_token_and_a_device_name_are_asked_for(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    answer = await gateway.log_in(
        mint(localpart), refresh_token=True, device_id="PHONE", initial_device_display_name="My phone"
    )

    assert answer.body["refresh_token"]
    assert answer.body["expires_in_ms"] > 0
    device = await synapse.call("GET", "/_matrix/client/v3/devices/PHONE", answer.body["access_token"])
    assert device.body["display_name"] == "My phone"
    assert device.body["last_seen_ip"] == "127.0.0.1"


async def test_a_deactivated_user_gets_synapses_own_refusal(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    await gateway.log_in(mint(localpart))
    await synapse.deactivate(synapse.user_id(localpart))

    answer = await gateway.log_in(mint(localpart))

    assert (answer.status, answer.body["errcode"]) == (403, "M_USER_DEACTIVATED")


async def test_a_locked_user_gets_synapses_own_refusal(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    await gateway.log_in(mint(localpart))
    await synapse.lock(synapse.user_id(localpart))

    answer = await gateway.log_in(mint(localpart))

    assert (answer.status, answer.body["errcode"]) == (401, "M_USER_LOCKED")
    assert answer.body["soft_logout"] is True


@pytest.mark.parametrize("there", [True, False])
async def test_without_register_user_only_users_of_the_homeserver_log_in(
    tmp_path: Path, synapse: RealSynapse, localpart: str, *, there: bool
) -> None:
    if there:
        await synapse.register(localpart)
    async with running_gateway(tmp_path, synapse.url, jwt={"register_user": False}) as gateway:
        answer = await gateway.log_in(mint(localpart))

    assert answer.status == (200 if there else 403)
    if not there:
        assert answer.body == {"errcode": "M_FORBIDDEN", "error": "User not found"}
        assert (await synapse.log_in(localpart)).outcome == (404, "M_UNKNOWN")


async def test_an_existing_account_with_an_empty_profile_is_found(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    await synapse.register(localpart)
    user_id = synapse.user_id(localpart)
    await synapse.call(
        "PUT",
        f"/_matrix/client/v3/profile/{user_id}/displayname?user_id={user_id}",
        synapse.as_token,
        {"displayname": ""},
    )
    async with running_gateway(tmp_path, synapse.url, jwt={"register_user": False}) as gateway:
        assert (await gateway.log_in(mint(localpart))).status == 200


async def test_existing_accounts_are_refused_where_configured(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    await synapse.register(localpart)
    async with running_gateway(tmp_path, synapse.url, identity={"existing_accounts": "refuse"}) as gateway:
        answer = await gateway.log_in(mint(localpart))
        fresh = await gateway.log_in(mint(f"{localpart}-new"))

    assert answer.body == {"errcode": "M_FORBIDDEN", "error": "This identity may not log in here"}
    assert fresh.status == 200


async def test_a_wrong_as_token_is_told_to_the_operator_alone(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    async with running_gateway(tmp_path, synapse.url, session={"as_token": "f" * 64}) as gateway:
        answer = await gateway.log_in(mint(localpart))

        assert answer.status == 502
        assert answer.body["error"] == "The login gateway is not set up for this homeserver"
        assert "does not know the as_token" in gateway.log


async def test_a_session_of_the_gateway_is_an_ordinary_one(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    token = (await gateway.log_in(mint(localpart))).body["access_token"]

    assert (await synapse.call("POST", "/_matrix/client/v3/logout", token, {})).status == 200
    assert (await synapse.whoami(token)).outcome == (401, "M_UNKNOWN_TOKEN")


async def password_login(url: str, user: str, password: str) -> nio.LoginResponse | nio.LoginError:
    """Log in as a client does that knows passwords alone."""
    client = nio.AsyncClient(url, user)
    try:
        return await client.login(password, device_name="Element")
    finally:
        await client.close()


@pytest.fixture
async def pasting(tmp_path: Path, synapse: RealSynapse) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, synapse.url, jwt={"accept_in_password": True}) as running:
        yield running


async def test_a_client_that_knows_passwords_alone_logs_in_with_a_pasted_token(
    pasting: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    for user in (localpart, synapse.user_id(localpart)):
        login = await password_login(pasting.url, user, mint(localpart))
        assert isinstance(login, nio.LoginResponse)
        assert login.user_id == synapse.user_id(localpart)
        assert (await synapse.whoami(login.access_token)).status == 200

    other = await password_login(pasting.url, "administrator", mint(localpart))
    assert isinstance(other, nio.LoginError)
    assert other.message == "This identity may not log in here"


# The second has the form of a token; bcrypt takes no more than 72 bytes.
@pytest.mark.parametrize(
    "password", ["correct horse battery staple", "eyJhbGciOiJIUzI1NiJ9.e30.c29tZXRoaW5nIHRoYXQgaXMgbm90"]
)
async def test_real_passwords_log_in_as_before_also_one_that_looks_like_a_token(
    password: str, pasting: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    user_id = synapse.user_id(localpart)
    target = f"/_synapse/admin/v2/users/{user_id}"
    assert (await synapse.call("PUT", target, synapse.admin_token, {"password": password})).status == 201

    login = await password_login(pasting.url, localpart, password)
    assert isinstance(login, nio.LoginResponse)
    assert login.user_id == user_id
    wrong = await password_login(pasting.url, localpart, password[:-1] + "A")
    assert isinstance(wrong, nio.LoginError)
    assert wrong.message == "Invalid username or password"
    # The token of the user works beside the password.
    assert isinstance(await password_login(pasting.url, localpart, mint(localpart)), nio.LoginResponse)


async def test_the_old_name_of_the_type_is_offered_and_logs_in(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    types = ["org.matrix.login.jwt", "m.login.jwt"]
    async with running_gateway(tmp_path, synapse.url, jwt={"login_types": types}) as gateway:
        client = nio.AsyncClient(gateway.url)
        try:
            info = await client.login_info()
            assert isinstance(info, nio.LoginInfoResponse)
            assert info.flows[-2:] == types
            for name in types:
                login = await client.login_raw({"type": name, "token": mint(localpart)})
                assert isinstance(login, nio.LoginResponse)
        finally:
            await client.close()


async def test_a_token_that_comes_again_with_its_device_makes_no_second_device(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    jwt = {"single_use": True, "single_use_grace": True}
    async with running_gateway(tmp_path, synapse.url, jwt=jwt) as gateway:
        token = mint(localpart, jti="1")
        first, second = [await gateway.log_in(token, device_id="PHONE") for _ in range(2)]
        assert (await gateway.log_in(token, device_id="OTHER")).status == 403

    assert (first.status, second.status) == (200, 200)
    devices = await synapse.call("GET", "/_matrix/client/v3/devices", second.body["access_token"])
    assert [device["device_id"] for device in devices.body["devices"]] == ["PHONE"]
    # Synapse leaves the first session valid; it ends with the device.
    assert (await synapse.call("POST", "/_matrix/client/v3/logout", second.body["access_token"], {})).status == 200
    for answer in (first, second):
        assert (await synapse.whoami(answer.body["access_token"])).outcome == (401, "M_UNKNOWN_TOKEN")
