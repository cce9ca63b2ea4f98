"""Claims to a Matrix user: which subject this is, and which localpart it gets.

Grammar of user ids: Matrix specification, appendix 'User identifiers'. Upper case is folded for ASCII only: Unicode
folding maps other characters onto ASCII ones (U+212A, the Kelvin sign, becomes `k`), and with them two subjects onto
one user.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, field_validator

from gateway.core.claims import find_claim
from gateway.core.tokens import Claims
from gateway.errors import Refusal, Refused
from gateway.settings import Table

# The appservice's own user: nobody logs in as it.
SENDER_LOCALPART: Final = "_login_gateway"
MAX_USER_ID_BYTES: Final = 255

_ALLOWED: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._=/+-")
_UPPER_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
# Appendix 'Server name'.
_SERVER_NAME: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(:[0-9]{1,5})?")
# A claim's name ends at the colon before the expression; a colon before `//` belongs to a name that is a URL.
_CLAIM_NAME: Final = re.compile(r"(?:[^{}:]|:(?=//))+")


def check_server_name(text: str) -> str:
    """Return a server name that follows the grammar; raises ValueError with what to write."""
    if not _SERVER_NAME.fullmatch(text):
        raise ValueError("not a server name; write it as in user ids, such as example.org")
    return text


@dataclass(frozen=True, slots=True)
class ClaimPart:
    """A part of a template that a claim fills: the whole value, or the first group of `expression`."""

    claim: str
    expression: re.Pattern[str] | None


Template = tuple[str | ClaimPart, ...]


def parse_template(text: str) -> Template:
    """Read `literal{claim}{claim:regex}`; raises ValueError with what is wrong and where."""
    parts: list[str | ClaimPart] = []
    position = 0
    while position < len(text):
        opening = text.find("{", position)
        literal = text[position:] if opening < 0 else text[position:opening]
        if "}" in literal:
            raise ValueError("a } without its {")
        if literal:
            parts.append(literal)
        if opening < 0:
            break
        part, position = _parse_claim_part(text, opening + 1)
        parts.append(part)
    if not any(isinstance(part, ClaimPart) for part in parts):
        raise ValueError("it names no claim, so that everybody would be the same user; write {sub}")
    return tuple(parts)


def _parse_claim_part(text: str, start: int) -> tuple[ClaimPart, int]:
    name = _CLAIM_NAME.match(text, start)
    if name is None:
        raise ValueError("a { without the name of a claim behind it")
    if text[name.end() : name.end() + 1] == "}":
        return ClaimPart(name[0], None), name.end() + 1
    end = _closing_brace(text, name.end() + 1)
    source = text[name.end() + 1 : end]
    expression = _compiled(source)
    if expression.groups == 0:
        raise ValueError(f"{source!r} has no group; put the part to take in parentheses")
    return ClaimPart(name[0], expression), end + 1


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return position
        position += 1
    raise ValueError("a { without its }")


def _compiled(source: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what a later Python will read otherwise
            return re.compile(source)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(f"{source[:80]!r} is not a regular expression: {error}") from None


def _expression(value: object) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise ValueError("must be a regular expression in quotes")
    return _compiled(value)


Expression = Annotated[re.Pattern[str], BeforeValidator(_expression)]


class IdentityRules(Table):
    """The `[identity]` table: how a subject becomes a Matrix user."""

    localpart: str = "{sub}"
    lowercase: bool = True
    escape: bool = False
    strip_server_name: bool = True
    allow: list[Expression] = []
    deny: list[Expression] = []

    @field_validator("localpart")
    @classmethod
    def _template(cls, value: str) -> str:
        parse_template(value)
        return value


class ClaimNames(Table):
    """Which claims of `[jwt]` say who the user is and what the profile shows."""

    subject_claim: str = "sub"
    display_name_claim: str | None = None
    avatar_claim: str | None = None
    email_claim: str | None = None
    required_claims: dict[str, str | int | bool | list[str | int | bool]] = {}

    @field_validator("required_claims", mode="before")
    @classmethod
    def _values(cls, value: object) -> object:
        for name, wanted in value.items() if isinstance(value, dict) else ():
            choices = wanted if isinstance(wanted, list) else [wanted]
            if not choices or not all(isinstance(choice, str | int) for choice in choices):
                raise ValueError(f"{name!r} needs text, a whole number, true or false, or a list of them")
        return value


@dataclass(frozen=True, slots=True)
class UserMapping:
    """All that turns the claims of one issuer into users of one server."""

    rules: IdentityRules
    claims: ClaimNames
    server_name: str
    # Without configured issuers `iss` is not checked, so it must not tell two subjects apart either.
    issuer_matters: bool
    template: Template

    @classmethod
    def of(cls, rules: IdentityRules, claims: ClaimNames, server_name: str, *, issuer_matters: bool) -> "UserMapping":
        """Build the mapping, its template parsed once."""
        return cls(rules, claims, server_name, issuer_matters, parse_template(rules.localpart))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logs in: the subject as its issuer names it, and the Matrix user that it maps to.

    `issuer` is "" for a token without one; only where `issuer_matters` was it checked.
    """

    issuer: str
    subject: str
    localpart: str
    user_id: str
    display_name: str | None = None
    avatar: str | None = None
    issuer_matters: bool = True


def identify(claims: Claims, mapping: UserMapping) -> Identity:
    """Return the identity that verified claims stand for; raises `Refused` where a rule forbids it."""
    subject = find_subject(claims, mapping)
    check_required_claims(claims, mapping)
    localpart = fold(fill_template(claims, subject, mapping), mapping)
    user_id = check_localpart(localpart, mapping)
    check_allowed(localpart, mapping.rules)
    return Identity(
        issuer=_text_claim(claims, "iss") or "",
        subject=subject,
        localpart=localpart,
        user_id=user_id,
        display_name=_text_claim(claims, mapping.claims.display_name_claim),
        avatar=_text_claim(claims, mapping.claims.avatar_claim),
        issuer_matters=mapping.issuer_matters,
    )


def find_subject(claims: Claims, mapping: UserMapping) -> str:
    """Return the subject: the value of `subject_claim`, which must be a string with something in it."""
    subject = find_claim(claims, mapping.claims.subject_claim)
    if not isinstance(subject, str) or not subject:
        raise Refused(Refusal.SUBJECT_MISSING)
    return subject


def check_required_claims(claims: Claims, mapping: UserMapping) -> None:
    """Check `required_claims`: each must be there with its value; of an array, one entry must be."""
    for name, wanted in mapping.claims.required_claims.items():
        found = find_claim(claims, name)
        if name == "scope" and isinstance(found, str):
            found = found.split(" ")  # RFC 8693 4.2
        values = found if isinstance(found, list) else [found]
        choices = wanted if isinstance(wanted, list) else [wanted]
        # 1 == True in Python, but not in JSON.
        if not any(type(value) is type(choice) and value == choice for value in values for choice in choices):
            raise Refused(Refusal.IDENTITY_REFUSED, reason=f"required claim {name!r} is missing or different")


def fill_template(claims: Claims, subject: str, mapping: UserMapping) -> str:
    """Return the template with the claims in it; `{sub}` is the subject, whichever claim that is.

    An expression must match the whole value: one that matched a part would take `x@example.org.evil.net` for a
    user of `example.org`.
    """
    filled = []
    for part in mapping.template:
        if isinstance(part, str):
            filled.append(part)
            continue
        value = subject if part.claim == "sub" else find_claim(claims, part.claim)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise Refused(Refusal.CLAIM_MISSING, part.claim)
        if part.expression is not None:
            match = part.expression.fullmatch(value)
            value = match[1] if match else None
            if not value:
                raise Refused(Refusal.BAD_LOCALPART, f"The claim '{part.claim}' does not have the expected form")
        filled.append(value)
    return "".join(filled)


def fold(name: str, mapping: UserMapping) -> str:
    """Return the localpart for a mapped name: without our server name, folded and escaped as configured."""
    rules = mapping.rules
    if rules.lowercase:
        name = name.translate(_UPPER_TO_LOWER)
    if name.startswith("@") and ":" in name:
        localpart, _, server_name = name[1:].partition(":")
        if server_name.translate(_UPPER_TO_LOWER) != mapping.server_name.translate(_UPPER_TO_LOWER):
            raise Refused(Refusal.BAD_LOCALPART, "The user belongs to another server")
        if rules.strip_server_name:
            name = localpart
    if rules.escape:
        name = _escape(name)
    return name


def check_localpart(localpart: str, mapping: UserMapping) -> str:
    """Return the user id of a localpart that follows the grammar and the gateway's own rules."""
    if not localpart:
        raise Refused(Refusal.BAD_LOCALPART, "The user name is empty")
    if not _ALLOWED.issuperset(localpart):
        raise Refused(Refusal.BAD_LOCALPART, "A user name can only contain the characters a-z, 0-9 and ._=/+-")
    if localpart.startswith("_"):
        raise Refused(Refusal.BAD_LOCALPART, "A user name may not begin with an underscore")
    if localpart.isdigit():
        raise Refused(Refusal.BAD_LOCALPART, "A user name may not be digits only")
    user_id = f"@{localpart}:{mapping.server_name}"
    if len(user_id.encode()) > MAX_USER_ID_BYTES:
        raise Refused(Refusal.BAD_LOCALPART, f"The user id is longer than {MAX_USER_ID_BYTES} bytes")
    return user_id


def check_allowed(localpart: str, rules: IdentityRules) -> None:
    """Check the lists. Both fail closed: `deny` looks anywhere in the name, `allow` must match all of it."""
    if localpart == SENDER_LOCALPART or any(pattern.search(localpart) for pattern in rules.deny):
        raise Refused(Refusal.IDENTITY_REFUSED, reason=f"localpart {localpart!r} is denied")
    if rules.allow and not any(pattern.fullmatch(localpart) for pattern in rules.allow):
        raise Refused(Refusal.IDENTITY_REFUSED, reason=f"localpart {localpart!r} is not allowed")


def _escape(name: str) -> str:
    # Appendix 'Mapping from other character sets'; the leading underscore is ours: it is reserved for bridges.
    escaped = "".join(
        chr(byte) if chr(byte) in _ALLOWED and byte != ord("=") else f"={byte:02x}" for byte in name.encode()
    )
    return "=5f" + escaped[1:] if escaped.startswith("_") else escaped


def _text_claim(claims: Claims, path: str | None) -> str | None:
    value: Any = find_claim(claims, path) if path else None
    return value if isinstance(value, str) and value else None
