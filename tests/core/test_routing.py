"""The four login paths are ours, as they are written, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.homeserver_kinds import DENDRITE, PALPO, SYNAPSE, TUWUNEL, HomeserverKind
from gateway.core.routing import LOGIN_PATHS, LOGOUT_ALL_PATHS, LOGOUT_PATHS, means_login


def test_each_path_has_the_four_versions_that_clients_use() -> None:
    assert {f"/_matrix/client/{version}/login" for version in ("v3", "r0", "unstable", "api/v1")} == LOGIN_PATHS
    assert {path.replace("login", "logout") for path in LOGIN_PATHS} == LOGOUT_PATHS
    assert {f"{path}/all" for path in LOGOUT_PATHS} == LOGOUT_ALL_PATHS


@pytest.mark.parametrize("path", sorted(LOGIN_PATHS | LOGOUT_PATHS | LOGOUT_ALL_PATHS))
def test_no_path_has_what_ends_a_path(path: str) -> None:
    """The query is cut off before paths are compared."""
    assert not set("?#%;") & set(path)


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v3/login/",
        "//_matrix/client/v3/login//",
        "/_matrix//client/v3//login",
        "/_matrix/client/v3/%6cogin",
        "/_matrix/client/v3/%6c%6f%67%69%6e",
        "/%5fmatrix/client/%76%33/login",
        "/_matrix/client/v1/login",
        "/_matrix/client/r0/login#a/b",
        "/" * 9000 + "_matrix/client/v3/%6Cogin" + "/" * 9000,
    ],
)
def test_a_path_that_palpo_takes_for_its_login_path_means_login_there(path: str) -> None:
    assert means_login(path, PALPO)
    assert not means_login(path, SYNAPSE)


@pytest.mark.parametrize("kind", [TUWUNEL, PALPO, SYNAPSE, DENDRITE], ids=lambda kind: kind.name)
def test_what_stands_behind_a_number_sign_is_left_out_where_the_homeserver_does_so(kind: HomeserverKind) -> None:
    assert means_login("/_matrix/client/v3/login#x", kind) is (kind in {TUWUNEL, PALPO})
    assert not means_login("/#/_matrix/client/v3/login", kind)


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v3%2Flogin",
        "/_matrix/client/v3/./login",
        "/_matrix/client/v3/x/../login",
        "/_matrix/client/v3/login;a",
        "/_matrix/client/v3/LOGIN",
        "/_matrix/client/v3/login%20",
        "/_matrix/client/v3/%256cogin",
        "/_matrix/client/v3/login%2F",
        "/_matrix/client/v2/login",
        "/_matrix/client/v3/rooms/login",
        "/_matrix/client/v3/account/sync",
        "login",
        "",
        "/#/_matrix/client/v3/login",
    ],
)
def test_a_path_that_it_does_not_take_for_that_does_not(path: str) -> None:
    assert not means_login(path, PALPO)


@given(st.text())
def test_any_path_means_login_or_not(path: str) -> None:
    assert means_login(f"/_matrix/client/v3/login/{path}", PALPO) in {True, False}
    assert means_login(path, PALPO) in {True, False}
