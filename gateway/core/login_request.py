"""The body of a login request: octets to a `LoginRequest`, or None where the homeserver is to answer.

Fields of the exchange: client-server specification, 'POST /_matrix/client/v3/login'.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.core.jws import has_token_form
from gateway.core.lenient_json import holds, may_hold
from gateway.core.strict_json import parse_small_object
from gateway.errors import Refusal, Refused

# The login type of what may be a token pasted as a password.
PASTED_TYPE: Final = "m.login.password"

# Synapse's own bounds are 512 and 100 characters; above them it answers 400 or 500.
MAX_DEVICE_ID_BYTES: Final = 255
MAX_DISPLAY_NAME_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """A JWT login as the client asked for it; an absent field is None.

    `names` are the users that the body names, and that have to be the token's; the JWT types name none.
    """

    token: str = field(repr=False)
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PastedToken:
    """A password login whose password has the form of a token; the homeserver's, unless one of our keys signed it."""

    token: str = field(repr=False)
    names: tuple[str, ...]
    fields: dict[str, Any] = field(repr=False)

    def request(self) -> LoginRequest:
        """Return the JWT login that it is once the signature is verified; raises `Refused` as `parse_login` does."""
        return _request(self.token, self.fields, self.names)


def parse_login(
    body: bytes, login_types: Collection[str], max_password_bytes: int = 0
) -> LoginRequest | PastedToken | None:
    """Read a login body; None when it is not a JSON object whose `type` is one of `login_types`.

    Nor is it a password login whose password may be a token, of `max_password_bytes` at most; 0: none may.
    Raises `Refused` for a JWT login without a token or with a field of the wrong type or size, and for a body that we
    take for none, and the homeserver might take for one: our rules would not hold there.
    """
    try:
        fields = parse_small_object(body, finite=True)
    except ValueError as error:
        if may_hold(body, "type", login_types, error):
            raise Refused(Refusal.BAD_JSON, str(error)) from None
        return None
    login_type = fields.get("type")
    if isinstance(login_type, str) and login_type in login_types:
        token = fields.get("token")
        if not isinstance(token, str):
            raise Refused(Refusal.TOKEN_MISSING)
        return _request(token, fields)
    if holds(fields.items(), "type", login_types):
        raise Refused(Refusal.BAD_JSON, "'type' in upper case")
    if login_type == PASTED_TYPE and max_password_bytes:
        return _pasted(fields, max_password_bytes)
    return None


def check_names(request: LoginRequest, user_id: str) -> None:
    """Refuse a login whose body names another user than `user_id`, which the token stands for.

    A name is a localpart or a whole user id. Case makes no difference, as it makes none to homeservers here: phones
    write a capital first. Nobody gets another's session by it: the token says whose it is.
    """
    own = {user_id, user_id[1:].partition(":")[0]}
    folded = {name.lower() for name in own}
    for name in request.names:
        # Outside of ASCII, lower() maps other letters onto these.
        if name not in own and not (name.isascii() and name.lower() in folded):
            raise Refused(Refusal.IDENTITY_REFUSED, reason="the login names another user than its token")


def _pasted(fields: dict[str, Any], max_bytes: int) -> PastedToken | None:
    password = fields.get("password")
    if not isinstance(password, str):
        return None
    token = password.strip()  # what is pasted brings blanks and line ends with it
    names = _names(fields)
    return PastedToken(token, names, fields) if names and has_token_form(token, max_bytes) else None


def _names(fields: dict[str, Any]) -> tuple[str, ...]:
    """Return the users that a password login names: by its `identifier`, and by `user`, which is the older way.

    None where it goes by an address or a telephone number: only the homeserver knows whose that is.
    """
    names = [fields["user"]] if fields.get("user") is not None else []
    identifier = fields.get("identifier")
    if isinstance(identifier, dict) and identifier.get("type") == "m.id.user":
        names.append(identifier.get("user"))
    elif identifier is not None:
        return ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _request(token: str, fields: dict[str, Any], names: tuple[str, ...] = ()) -> LoginRequest:
    return LoginRequest(
        token=token,
        device_id=_device_id(fields.get("device_id")),
        initial_device_display_name=_display_name(fields.get("initial_device_display_name")),
        refresh_token=_flag(fields.get("refresh_token")),
        names=names,
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
