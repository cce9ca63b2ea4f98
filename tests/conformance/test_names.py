"""Names that are not for people: the users of bridges, and the homeserver's own accounts."""

import secrets
from pathlib import Path

import pytest

from tests.conformance.conftest import BY_APPSERVICE, before, user_id
from tests.conformance.targets import Target
from tests.running_gateway import mint

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def ghost() -> str:
    """A name that no other test has, of those that the bridge has for itself."""
    return f"bridge_{secrets.token_hex(6)}"


@pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
@pytest.mark.parametrize("register_user", [True, False])
async def test_nobody_becomes_a_user_of_a_bridge(
    target: Target, tmp_path: Path, ghost: str, *, register_user: bool
) -> None:
    await target.add_ghost(f"{ghost}_known")
    async with before(target, tmp_path, jwt={"register_user": register_user}) as gateway:
        fresh = await gateway.log_in(mint(ghost))
        known = await gateway.log_in(mint(f"{ghost}_known"))

        assert "bridge_" in gateway.log
        assert "traceback" not in gateway.log
    assert fresh.status == (400 if register_user else 403)
    always_reserved = target.flavour.reserved is None or target.flavour.reserved[1] == "M_USER_IN_USE"
    assert not await target.exists(ghost) or always_reserved
    if always_reserved:  # elsewhere a ghost that exists looks like anybody
        assert (known.status, known.body["errcode"]) == (400, "M_EXCLUSIVE")


@pytest.mark.parametrize("register_user", [True, False])
async def test_nobody_gets_the_account_of_the_homeserver_itself(
    target: Target, tmp_path: Path, *, register_user: bool
) -> None:
    async with before(target, tmp_path, jwt={"register_user": register_user}) as gateway:
        for name in target.flavour.own_localparts:
            answer = await gateway.log_in(mint(name))
            assert answer.status in {400, 403}
            assert "access_token" not in answer.body
        assert (await gateway.log_in(mint("_login_gateway"))).body["errcode"] == "M_INVALID_USERNAME"


@pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
async def test_a_name_is_as_long_as_the_homeserver_takes_it(target: Target, tmp_path: Path, localpart: str) -> None:
    most = target.flavour.max_user_id - len("@:example.org")
    async with before(target, tmp_path) as gateway:
        assert (await gateway.log_in(mint(localpart.ljust(most, "x")))).status == 200
        answer = await gateway.log_in(mint(localpart.ljust(most + 1, "x")))
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_USERNAME")


async def test_a_name_may_have_every_character_of_the_grammar(target: Target, tmp_path: Path, localpart: str) -> None:
    name = f"{localpart}._=/+"
    async with before(target, tmp_path) as gateway:
        for _ in range(2):
            answer = await gateway.log_in(mint(name))
            assert (answer.status, answer.body.get("user_id")) == (200, user_id(name))
            assert await target.user_of(answer.body["access_token"]) == user_id(name)
        assert gateway.log.count("made=True") == 1
