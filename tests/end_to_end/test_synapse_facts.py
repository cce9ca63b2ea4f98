"""What our code takes for granted of Synapse, asked of a real one: a test for each fact.

Rule: only Synapse itself is asked here, the gateway has no part in it. When a new release of Synapse
makes one of these fail, the code that relies on it has to change too.
"""

import asyncio
import time
import typing
from urllib.parse import quote

import pytest

from gateway.core.signing import signed
from tests.real_synapse import JWT_CONFIG

if typing.TYPE_CHECKING:
    from tests.real_synapse import RealSynapse

NOBODYS_TOKEN = "00" * 32


async def test_a_second_registration_says_that_the_user_exists(synapse: "RealSynapse", localpart: str) -> None:
    first = await synapse.register(localpart)

    assert (first.status, first.body["user_id"]) == (200, synapse.user_id(localpart))
    assert "access_token" not in first.body
    assert (await synapse.register(localpart)).outcome == (400, "M_USER_IN_USE")


async def test_of_parallel_registrations_exactly_one_succeeds(synapse: "RealSynapse", localpart: str) -> None:
    answers = await asyncio.gather(*(synapse.register(localpart) for _ in range(8)))

    outcomes = sorted(answer.status for answer in answers)
    assert outcomes == [200] + [400] * 7
    assert {answer.body.get("errcode") for answer in answers} == {None, "M_USER_IN_USE"}


async def test_registration_does_not_check_names(synapse: "RealSynapse", localpart: str) -> None:
    for suffix in (" with spaces", "UPPER", "a:b", "é"):
        assert (await synapse.register(localpart + suffix)).status == 200, suffix


async def test_registration_takes_even_the_empty_name(synapse: "RealSynapse") -> None:
    assert (await synapse.register("")).status == 200


async def test_a_login_gives_a_session_on_the_wanted_device(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    session = await synapse.log_in(localpart, device_id="PHONE", initial_device_display_name="Phone")

    assert session.status == 200
    assert session.body["device_id"] == "PHONE"
    who = await synapse.whoami(session.body["access_token"])
    assert who.body["user_id"] == synapse.user_id(localpart)


async def test_a_login_has_no_well_known_without_public_baseurl(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    session = await synapse.log_in(localpart)

    assert session.body.keys() == {"user_id", "access_token", "home_server", "device_id"}


async def test_a_login_gives_a_refresh_token_when_asked(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    session = await synapse.log_in(localpart, refresh_token=True)

    assert 290_000 < session.body["expires_in_ms"] <= 300_000
    assert isinstance(session.body["refresh_token"], str)


async def test_a_login_of_an_unknown_user_is_404_unknown(synapse: "RealSynapse", localpart: str) -> None:
    assert (await synapse.log_in(localpart)).outcome == (404, "M_UNKNOWN")


async def test_a_login_of_a_deactivated_user_is_403(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    await synapse.deactivate(synapse.user_id(localpart))

    assert (await synapse.log_in(localpart)).outcome == (403, "M_USER_DEACTIVATED")


async def test_a_deactivated_name_stays_taken(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    await synapse.deactivate(synapse.user_id(localpart))

    assert (await synapse.register(localpart)).outcome == (400, "M_USER_IN_USE")


async def test_a_login_of_a_locked_user_is_401_with_soft_logout(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    await synapse.lock(synapse.user_id(localpart))
    refusal = await synapse.log_in(localpart)

    assert refusal.outcome == (401, "M_USER_LOCKED")
    assert refusal.body["soft_logout"] is True
    await synapse.lock(synapse.user_id(localpart), locked=False)
    assert (await synapse.log_in(localpart)).status == 200


async def test_a_wrong_as_token_is_401_unknown_token(synapse: "RealSynapse", localpart: str) -> None:
    assert (await synapse.register(localpart, NOBODYS_TOKEN)).outcome == (401, "M_UNKNOWN_TOKEN")
    assert (await synapse.log_in(localpart, NOBODYS_TOKEN)).outcome == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("token", [None, "as_token"])
async def test_the_profile_of_an_unknown_user_is_404_unknown(
    synapse: "RealSynapse", localpart: str, token: str | None
) -> None:
    target = f"/_matrix/client/v3/profile/{quote(synapse.user_id(localpart), safe='')}"
    answer = await synapse.call("GET", target, token and synapse.as_token)

    assert answer.outcome == (404, "M_UNKNOWN")


async def test_the_profile_of_a_new_user_names_him_by_the_localpart(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    target = f"/_matrix/client/v3/profile/{quote(synapse.user_id(localpart), safe='')}"
    answer = await synapse.call("GET", target)

    assert (answer.status, answer.body) == (200, {"displayname": localpart})


async def test_the_profile_of_a_known_user_with_an_empty_name_is_404_not_found(
    synapse: "RealSynapse", localpart: str
) -> None:
    await synapse.register(localpart)
    user_id = quote(synapse.user_id(localpart), safe="")
    target = f"/_matrix/client/v3/profile/{user_id}"
    asking = f"{target}/displayname?user_id={user_id}"
    renamed = await synapse.call("PUT", asking, synapse.as_token, {"displayname": ""})

    assert renamed.status == 200
    assert (await synapse.call("GET", target)).outcome == (404, "M_NOT_FOUND")


async def test_whoami_for_a_user_tells_whether_he_exists(synapse: "RealSynapse", localpart: str) -> None:
    target = f"/_matrix/client/v3/account/whoami?user_id={quote(synapse.user_id(localpart), safe='')}"

    assert (await synapse.call("GET", target, synapse.as_token)).outcome == (403, "M_FORBIDDEN")
    await synapse.register(localpart)
    known = await synapse.call("GET", target, synapse.as_token)
    assert (known.status, known.body["user_id"]) == (200, synapse.user_id(localpart))


async def test_logout_all_for_a_user_ends_every_token_of_his(synapse: "RealSynapse", localpart: str) -> None:
    await synapse.register(localpart)
    sessions = [await synapse.log_in(localpart) for _ in range(2)]
    target = f"/_matrix/client/v3/logout/all?user_id={quote(synapse.user_id(localpart), safe='')}"

    assert (await synapse.call("POST", target, synapse.as_token, {})).status == 200
    for session in sessions:
        assert (await synapse.whoami(session.body["access_token"])).outcome == (401, "M_UNKNOWN_TOKEN")


async def test_the_application_service_can_not_give_a_user_an_e_mail_address(
    synapse: "RealSynapse", localpart: str
) -> None:
    await synapse.register(localpart)
    user_id = quote(synapse.user_id(localpart), safe="")
    asking = f"/_matrix/client/v3/account/3pid/add?user_id={user_id}"
    added = await synapse.call("POST", asking, synapse.as_token, {"client_secret": "a", "sid": "1"})
    target = f"/_synapse/admin/v2/users/{user_id}"
    wanted = {"threepids": [{"medium": "email", "address": "alice@example.org"}]}

    assert added.status >= 400  # a 500: it needs the user's own session, to ask who it is
    assert (await synapse.call("PUT", target, synapse.as_token, wanted)).outcome == (403, "M_FORBIDDEN")
    assert (await synapse.call("GET", target, synapse.admin_token)).body["threepids"] == []


@pytest.mark.timeout(300)  # it may be installed first
async def test_an_old_synapse_opens_a_session_for_a_locked_user_and_refuses_its_token(
    old_synapse: "RealSynapse", localpart: str
) -> None:
    await old_synapse.register(localpart)
    await old_synapse.lock(old_synapse.user_id(localpart))
    session = await old_synapse.log_in(localpart)

    assert session.status == 200
    refusal = await old_synapse.whoami(session.body["access_token"])
    assert refusal.outcome == (401, "ORG_MATRIX_MSC3939_USER_LOCKED")


async def test_an_old_synapse_does_not_tell_no_user_from_an_empty_profile(
    old_synapse: "RealSynapse", localpart: str
) -> None:
    target = f"/_matrix/client/v3/profile/{quote(old_synapse.user_id(localpart), safe='')}"

    assert (await old_synapse.call("GET", target)).outcome == (404, "M_NOT_FOUND")


async def test_of_parallel_jwt_logins_that_make_the_account_only_one_gets_a_session(
    jwt_synapse: "RealSynapse", localpart: str
) -> None:
    moment = int(time.time())
    claims = {"sub": localpart, "exp": moment + 60, "iss": JWT_CONFIG["issuer"], "aud": "the homeserver"}
    token = signed(claims, str(JWT_CONFIG["secret"]), "HS256")
    body = {"type": "org.matrix.login.jwt", "token": token}
    answers = await asyncio.gather(
        *(jwt_synapse.call("POST", "/_matrix/client/v3/login", None, body) for _ in range(6))
    )

    assert {answer.outcome for answer in answers} == {(200, None), (400, "M_USER_IN_USE")}
    assert (await jwt_synapse.call("POST", "/_matrix/client/v3/login", None, body)).status == 200


async def test_a_jwt_is_looked_at_for_its_signature_before_its_expiry(
    jwt_synapse: "RealSynapse", localpart: str
) -> None:
    claims = {"sub": localpart, "exp": 60, "iss": JWT_CONFIG["issuer"], "aud": "the homeserver"}
    for secret, says in ((str(JWT_CONFIG["secret"]), "expired"), ("00" * 32, "ignature")):
        body = {"type": "org.matrix.login.jwt", "token": signed(claims, secret, "HS256")}
        answer = await jwt_synapse.call("POST", "/_matrix/client/v3/login", None, body)
        assert answer.outcome == (403, "M_FORBIDDEN")
        assert says in answer.body["error"]


async def test_the_flows_know_nothing_of_json_web_tokens(synapse: "RealSynapse") -> None:
    flows = (await synapse.call("GET", "/_matrix/client/v3/login")).body["flows"]

    types = {flow["type"] for flow in flows}
    assert "m.login.application_service" in types
    assert not {"org.matrix.login.jwt", "m.login.jwt"} & types
