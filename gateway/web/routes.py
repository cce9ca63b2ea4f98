"""The table of routes: every path that is ours, on one screen; everything else is the homeserver's."""

from gateway.core.routing import LOGIN_PATHS, LOGOUT_ALL_PATHS, LOGOUT_PATHS
from gateway.web.login import Login
from gateway.web.logout import Logout
from gateway.web.router import Route


def routes(login: Login, logout: Logout | None) -> list[Route]:
    """Return the rows; `logout` is None where the homeserver ends all sessions."""
    table = [
        Route("login_flows", "GET", LOGIN_PATHS, login.flows),
        Route("login", "POST", LOGIN_PATHS, login.log_in),
        Route("login", "POST", login.is_login_path, login.log_in),
    ]
    if logout is not None:
        table += [
            Route("logout", "POST", LOGOUT_PATHS, logout.end_session),
            Route("logout_all", "POST", LOGOUT_ALL_PATHS, logout.end_all_sessions),
        ]
    return table
