"""How long the body of a message is (RFC 9112 6.3): plain functions over what the parser made of its head.

The rule of this file: what two servers could read in two ways has no length here, but is refused.
"""

from typing import Final, Literal, TypeAlias

from gateway.core.headers import Fields

# How many octets a body has; None: it is chunked.
RequestFraming: TypeAlias = int | None
# "close": it ends with the connection.
ResponseFraming: TypeAlias = int | Literal["close"] | None

# The fields that say so; a request with neither has no body.
FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
# RFC 9110 9.2.2, of the methods that are relayed.
IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
# RFC 9112 6.3.
_WITHOUT_BODY: Final = frozenset((204, 304))
# 10^18 octets: what is longer is no length, and Python reads but 4300 digits.
_MOST_DIGITS: Final = 18


class BadFraming(ValueError):
    """Where the message ends can't be said for sure; the text says why."""


def request_framing(fields: Fields, *, is_http_1_0: bool) -> RequestFraming:
    """Return the length of a request's body, 0 without one; raises `BadFraming`."""
    special = fields.special
    if b"transfer-encoding" not in special:
        return content_length(b",".join(special[b"content-length"])) if b"content-length" in special else 0
    if is_http_1_0 or not _is_chunked(special[b"transfer-encoding"]):  # 6.1
        raise BadFraming("the request has a transfer coding that is not understood here")
    if b"content-length" in special:
        raise BadFraming("the request has two lengths")
    return None


def response_framing(method: str, status: int, fields: Fields) -> ResponseFraming:
    """Return the length of the body of an answer to a request with this method; raises `BadFraming`."""
    special = fields.special
    is_chunked = b"transfer-encoding" in special
    if is_chunked and not _is_chunked(special[b"transfer-encoding"]):
        raise BadFraming("its answer has a transfer coding that nobody asked for")
    if not may_have_body(method, status):
        return 0
    if is_chunked:
        return None
    return content_length(b",".join(special[b"content-length"])) if b"content-length" in special else "close"


def may_have_body(method: str, status: int) -> bool:
    """Say whether an answer with this status to a request with this method may have a body (RFC 9112 6.3)."""
    return not (method == "HEAD" or status in _WITHOUT_BODY or status < 200)


def content_length(value: bytes) -> int:
    """Return the length that `Content-Length` says (RFC 9110 8.6); raises `BadFraming`."""
    if value.isdigit():
        if len(value) > _MOST_DIGITS:
            value = value.lstrip(b"0") or b"0"
        if len(value) <= _MOST_DIGITS:
            return int(value)
    raise BadFraming("the message has a length that no body has")


def _is_chunked(codings: list[bytes]) -> bool:
    return len(codings) == 1 and codings[0].lower() == b"chunked"
