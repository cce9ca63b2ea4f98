"""The closed set of ways in which the gateway refuses a request, and the one table of their answers.

The texts equal Synapse's for the same condition. Cases that an attacker could tell apart share an answer.
"""

import enum
import math
from dataclasses import dataclass
from typing import Final


class Refusal(enum.Enum):
    """Why a request is refused. Every member has its row in `ANSWERS`."""

    TOKEN_MISSING = enum.auto()
    BAD_SIGNATURE = enum.auto()
    UNDECODABLE = enum.auto()
    UNSUPPORTED_ALGORITHM = enum.auto()
    NO_KEY = enum.auto()
    EXPIRED = enum.auto()
    NOT_YET_VALID = enum.auto()
    ISSUED_IN_FUTURE = enum.auto()
    CLAIM_INVALID = enum.auto()
    CLAIM_MISSING = enum.auto()
    SUBJECT_MISSING = enum.auto()
    ALREADY_USED = enum.auto()
    BAD_LOCALPART = enum.auto()
    RESERVED_LOCALPART = enum.auto()
    IDENTITY_REFUSED = enum.auto()
    USER_NOT_FOUND = enum.auto()
    ACCOUNT_LOCKED = enum.auto()
    ACCOUNT_DEACTIVATED = enum.auto()
    BAD_PARAMETER = enum.auto()
    BAD_JSON = enum.auto()
    UNSUPPORTED_CODING = enum.auto()
    BODY_TOO_LARGE = enum.auto()
    TOO_MANY_ATTEMPTS = enum.auto()
    HOMESERVER_UNREACHABLE = enum.auto()
    HOMESERVER_TOO_SLOW = enum.auto()
    HOMESERVER_REFUSES_GATEWAY = enum.auto()
    DATABASE_UNAVAILABLE = enum.auto()
    KEYS_UNAVAILABLE = enum.auto()
    BUSY = enum.auto()
    STOPPING = enum.auto()
    BAD_REQUEST = enum.auto()
    METHOD_NOT_ALLOWED = enum.auto()
    REQUEST_TIMEOUT = enum.auto()
    HEAD_TOO_LARGE = enum.auto()
    UPLOAD_REFUSED = enum.auto()
    # One of the gateway's own, whose log has the traceback; nothing that a client sends may lead to it.
    FAULT = enum.auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the table: HTTP status, Matrix error code, and the text, `{}` standing for the detail.

    `retry_after`: in how many seconds it may be otherwise, None where trying again helps nobody.
    """

    status: int
    errcode: str
    text: str
    retry_after: float | None = None


_JWT: Final = "JWT validation failed: "
_NOT_NOW: Final = "Login with a token is not available for the moment"

ANSWERS: Final[dict[Refusal, Answer]] = {
    Refusal.TOKEN_MISSING: Answer(403, "M_FORBIDDEN", "Token field for JWT is missing"),
    Refusal.BAD_SIGNATURE: Answer(403, "M_FORBIDDEN", _JWT + "Signature verification failed"),
    Refusal.UNDECODABLE: Answer(403, "M_FORBIDDEN", _JWT + "decode_error: {}"),
    Refusal.UNSUPPORTED_ALGORITHM: Answer(403, "M_FORBIDDEN", _JWT + "unsupported_algorithm: {}"),
    Refusal.NO_KEY: Answer(403, "M_FORBIDDEN", _JWT + "invalid_key: {}"),
    Refusal.EXPIRED: Answer(403, "M_FORBIDDEN", _JWT + "expired_token: The token is expired"),
    Refusal.NOT_YET_VALID: Answer(403, "M_FORBIDDEN", _JWT + "invalid_token: The token is not valid yet"),
    Refusal.ISSUED_IN_FUTURE: Answer(
        403, "M_FORBIDDEN", _JWT + "invalid_token: The token is not valid as it was issued in the future"
    ),
    Refusal.CLAIM_INVALID: Answer(403, "M_FORBIDDEN", _JWT + "invalid_claim: Invalid claim '{}'"),
    Refusal.CLAIM_MISSING: Answer(403, "M_FORBIDDEN", _JWT + "missing_claim: Missing '{}' claim"),
    Refusal.SUBJECT_MISSING: Answer(403, "M_FORBIDDEN", "Invalid JWT"),
    Refusal.ALREADY_USED: Answer(403, "M_FORBIDDEN", _JWT + "invalid_token: The token was already used"),
    Refusal.BAD_LOCALPART: Answer(400, "M_INVALID_USERNAME", "{}"),
    Refusal.RESERVED_LOCALPART: Answer(400, "M_EXCLUSIVE", "{}"),
    Refusal.IDENTITY_REFUSED: Answer(403, "M_FORBIDDEN", "This identity may not log in here"),
    Refusal.USER_NOT_FOUND: Answer(403, "M_FORBIDDEN", "User not found"),
    Refusal.ACCOUNT_LOCKED: Answer(401, "M_USER_LOCKED", "User account has been locked"),
    Refusal.ACCOUNT_DEACTIVATED: Answer(403, "M_USER_DEACTIVATED", "This account has been deactivated"),
    Refusal.BAD_PARAMETER: Answer(400, "M_INVALID_PARAM", "{}"),
    Refusal.BAD_JSON: Answer(400, "M_BAD_JSON", "The body of a login must be strict JSON: {}"),
    Refusal.UNSUPPORTED_CODING: Answer(415, "M_UNKNOWN", "The body of a login must have no content coding"),
    Refusal.BODY_TOO_LARGE: Answer(413, "M_TOO_LARGE", "The body of the login is too large"),
    Refusal.TOO_MANY_ATTEMPTS: Answer(429, "M_LIMIT_EXCEEDED", "Too Many Requests"),
    Refusal.HOMESERVER_UNREACHABLE: Answer(502, "M_UNKNOWN", "The homeserver cannot be reached", 5),
    Refusal.HOMESERVER_TOO_SLOW: Answer(504, "M_UNKNOWN", "The homeserver takes too long to answer", 5),
    Refusal.HOMESERVER_REFUSES_GATEWAY: Answer(
        502, "M_UNKNOWN", "The login gateway is not set up for this homeserver"
    ),
    Refusal.DATABASE_UNAVAILABLE: Answer(503, "M_UNKNOWN", _NOT_NOW, 5),
    # Not invalid_key: the token may be good, and its client should try again.
    Refusal.KEYS_UNAVAILABLE: Answer(503, "M_UNKNOWN", _NOT_NOW),
    Refusal.BUSY: Answer(503, "M_UNKNOWN", _NOT_NOW, 5),
    Refusal.STOPPING: Answer(503, "M_UNKNOWN", "The login gateway is being restarted; try again", 2),
    Refusal.BAD_REQUEST: Answer(400, "M_UNKNOWN", "{}"),
    Refusal.METHOD_NOT_ALLOWED: Answer(405, "M_UNRECOGNIZED", "Method not allowed"),
    Refusal.REQUEST_TIMEOUT: Answer(408, "M_UNKNOWN", "The request took too long to arrive"),
    Refusal.HEAD_TOO_LARGE: Answer(431, "M_TOO_LARGE", "The request line or a header field is too large"),
    Refusal.UPLOAD_REFUSED: Answer(413, "M_TOO_LARGE", "The homeserver refused to take more of this upload"),
    Refusal.FAULT: Answer(500, "M_UNKNOWN", "Internal server error"),
}

# What is refused whichever token the user brings.
OF_THE_USER: Final = frozenset(
    (
        Refusal.BAD_LOCALPART,
        Refusal.RESERVED_LOCALPART,
        Refusal.IDENTITY_REFUSED,
        Refusal.USER_NOT_FOUND,
        Refusal.ACCOUNT_LOCKED,
        Refusal.ACCOUNT_DEACTIVATED,
    )
)

# Enough for any real algorithm or claim name; the rest of a hostile one is not repeated to anybody.
_MAX_DETAIL: Final = 200


class Refused(Exception):
    """A request is refused: `refusal` picks the answer, `detail` fills its text, `reason` is for the log only.

    `retry_after` is in seconds, without it the table's. Neither `detail` nor `reason` ever holds a token or a secret.
    """

    def __init__(
        self, refusal: Refusal, detail: str = "", *, reason: str = "", retry_after: float | None = None
    ) -> None:
        self.refusal = refusal
        self.detail = detail[:_MAX_DETAIL]
        self.reason = reason or self.detail
        self.retry_after = ANSWERS[refusal].retry_after if retry_after is None else retry_after
        super().__init__(f"{refusal.name}: {self.reason}" if self.reason else refusal.name)

    @property
    def kind(self) -> str:
        """What logs and metrics call it."""
        return self.refusal.name.lower()

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return ANSWERS[self.refusal].status

    def body(self) -> dict[str, object]:
        """Return the Matrix error object of the answer (client-server specification, 'Standard error response')."""
        answer = ANSWERS[self.refusal]
        body: dict[str, object] = {
            "errcode": answer.errcode,
            "error": answer.text.replace("{}", self.detail),
        }
        if self.refusal is Refusal.ACCOUNT_LOCKED:
            body["soft_logout"] = True
        if self.refusal is Refusal.TOO_MANY_ATTEMPTS and self.retry_after is not None:
            body["retry_after_ms"] = math.ceil(self.retry_after * 1000)
        return body


class ConfigurationError(Exception):
    """The configuration can't be used; `problems` are lines for the operator, each with its place and fix."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class Unusable(Exception):
    """The gateway can't start or go on as it is; the message says what to do (exit status 1)."""
