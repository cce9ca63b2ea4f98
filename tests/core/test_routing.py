"""The four login paths are ours, as they are written, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routing import LOGIN_PATHS, Route, route


@pytest.mark.parametrize("path", sorted(LOGIN_PATHS))
@pytest.mark.parametrize("query", ["", "?", "?a=b", "?a=/../"])
def test_the_login_paths_are_intercepted_with_any_query(path: str, query: str) -> None:
    assert route("POST", path + query) is Route.LOGIN
    assert route("GET", path + query) is Route.LOGIN_FLOWS


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "post"])
def test_other_methods_of_a_login_path_are_relayed(method: str) -> None:
    assert route(method, "/_matrix/client/v3/login") is Route.RELAY


@pytest.mark.parametrize(
    "target",
    [
        "/_matrix/client/v3/login/",
        "/_matrix/client/v3//login",
        "//_matrix/client/v3/login",
        "/_matrix/client/v3/log%69n",
        "/_matrix/client/v3/./login",
        "/_matrix/client/v3/x/../login",
        "/_matrix/client/v3/login;a",
        "/_matrix/client/v3/login#a",
        "/_matrix/client/v3/LOGIN",
        "/_matrix/client/v4/login",
        "/_matrix/client/v3/login/sso/redirect",
        "/",
        "*",
        "",
    ],
)
def test_every_other_spelling_is_relayed(target: str) -> None:
    assert route("POST", target) is Route.RELAY


@given(st.text(), st.text() | st.sampled_from(sorted(LOGIN_PATHS)).flatmap(lambda path: st.text().map(path.__add__)))
def test_any_method_and_target_have_a_route_and_only_login_paths_are_ours(method: str, target: str) -> None:
    found = route(method, target)

    assert found in Route
    assert target.partition("?")[0] in LOGIN_PATHS or found is Route.RELAY
