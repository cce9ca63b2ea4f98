"""The body of a login request: octets to a `LoginRequest`, or None where the homeserver is to answer.

Fields of the exchange: client-server specification, 'POST /_matrix/client/v3/login'.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.strict_json import parse_object
from gateway.errors import Refusal, Refused

# Synapse's own bounds are 512 and 100 characters; above them it answers 400 or 500.
MAX_DEVICE_ID_BYTES: Final = 255
MAX_DISPLAY_NAME_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """A JWT login as the client asked for it; an absent field is None."""

    token: str
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None


def parse_login(body: bytes, login_types: Collection[str]) -> LoginRequest | None:
    """Read a login body; None when it is not a JSON object whose `type` is one of `login_types`.

    Raises `Refused` for a JWT login without a token or with a field of the wrong type or size.
    """
    try:
        fields = parse_object(body)
    except ValueError:
        return None
    login_type = fields.get("type")
    if not isinstance(login_type, str) or login_type not in login_types:
        return None
    token = fields.get("token")
    if not isinstance(token, str):
        raise Refused(Refusal.TOKEN_MISSING)
    return LoginRequest(
        token=token,
        device_id=_device_id(fields.get("device_id")),
        initial_device_display_name=_display_name(fields.get("initial_device_display_name")),
        refresh_token=_flag(fields.get("refresh_token")),
    )


def _device_id(value: Any) -> str | None:
    # "" makes a device with an empty name on Synapse.
    if value is None or (
        isinstance(value, str)
        and 0 < len(value.encode()) <= MAX_DEVICE_ID_BYTES
        and not any(_is_control(character) for character in value)
    ):
        return value
    raise Refused(
        Refusal.BAD_PARAMETER,
        f"'device_id' must be a string of 1 to {MAX_DEVICE_ID_BYTES} bytes without control characters",
    )


def _display_name(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= MAX_DISPLAY_NAME_CHARACTERS):
        return value
    raise Refused(
        Refusal.BAD_PARAMETER,
        f"'initial_device_display_name' must be a string of at most {MAX_DISPLAY_NAME_CHARACTERS} characters",
    )


def _flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise Refused(Refusal.BAD_PARAMETER, "'refresh_token' must be true or false")


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
