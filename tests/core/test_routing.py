"""The four login paths are ours, as they are written, and nothing else is."""

import pytest

from gateway.core.routing import LOGIN_PATHS, LOGOUT_ALL_PATHS, LOGOUT_PATHS


def test_each_path_has_the_four_versions_that_clients_use() -> None:
    assert {f"/_matrix/client/{version}/login" for version in ("v3", "r0", "unstable", "api/v1")} == LOGIN_PATHS
    assert {path.replace("login", "logout") for path in LOGIN_PATHS} == LOGOUT_PATHS
    assert {f"{path}/all" for path in LOGOUT_PATHS} == LOGOUT_ALL_PATHS


@pytest.mark.parametrize("path", sorted(LOGIN_PATHS | LOGOUT_PATHS | LOGOUT_ALL_PATHS))
def test_no_path_has_what_ends_a_path(path: str) -> None:
    """The query is cut off before paths are compared."""
    assert not set("?#%;") & set(path)
