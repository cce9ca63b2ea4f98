"""What the answers of Matrix Authentication Service hold and mean; JSON:API, errors are `{"errors": [...]}`."""

from typing import Any, Final, TypeGuard

from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Reply

NAME: Final = "Matrix Authentication Service"


def _data(reply: Reply) -> dict[str, Any]:
    data = reply.json().get("data")
    return data if isinstance(data, dict) else {}


def attributes(reply: Reply) -> dict[str, Any]:
    """Return what is said of the one thing that the answer is about."""
    said = _data(reply).get("attributes")
    return said if isinstance(said, dict) else {}


def id_of(reply: Reply, doing: str) -> str:
    """Return the id of the one thing that the answer is about."""
    value = _data(reply).get("id")
    if not isinstance(value, str) or not value.isalnum():
        raise unclear(doing)
    return value


def opened(reply: Reply) -> tuple[str, str]:
    """Return id and access token of a session that was opened."""
    token = attributes(reply).get("access_token")
    if not is_token(token):
        raise unclear("open the session")
    return id_of(reply, "open the session"), token


def is_token(value: Any) -> TypeGuard[str]:
    """Say whether it can stand in a field of a request."""
    return isinstance(value, str) and value.isascii() and value.isprintable()


def expect(reply: Reply, doing: str, *statuses: int) -> None:
    """Refuse an answer of any other status."""
    if reply.status not in statuses:
        raise failed(reply, doing)


def failed(reply: Reply, doing: str, hint: str = "see its log, and that mas_url is its admin API") -> Refused:
    """Return what a refusal means for the operator."""
    if reply.status >= 500:
        return Refused(Refusal.HOMESERVER_UNREACHABLE, reason=f"could not {doing}: {NAME} failed with {reply.status}")
    return Refused(
        Refusal.HOMESERVER_REFUSES_GATEWAY, reason=f"could not {doing}: {NAME} answered {reply.status}; {hint}"
    )


def unclear(doing: str) -> Refused:
    """Return what an answer of no known shape means."""
    return Refused(
        Refusal.HOMESERVER_REFUSES_GATEWAY, reason=f"could not {doing}: what answers at mas_url is no {NAME}"
    )
