"""Claims to a Matrix user: which subject this is, and which localpart it gets.

Grammar of user ids: Matrix specification, appendix 'User identifiers'. Nothing but A-Z is folded onto ASCII: Unicode
folds the Kelvin sign (U+212A) onto it too, which becomes `k`, and with it two subjects onto one user.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import field_validator

from gateway.core.claims import MAX_KEY_BYTES, find_claim, is_storable
from gateway.core.template import Expression, Template, parse_template
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


def check_server_name(text: str) -> str:
    """Return a server name that follows the grammar; raises ValueError with what to write."""
    if not _SERVER_NAME.fullmatch(text):
        raise ValueError("not a server name; write it as in user ids, such as example.org")
    return text


class IdentityRules(Table):
    """The `[identity]` table: how a subject becomes a Matrix user."""

    localpart: str = "{sub}"
    lowercase: bool = True
    escape: bool = False
    historical: bool = False
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
    # Other issuers whose accounts are also this one's; "" is the issuer of accounts from before it mattered.
    linked_issuers: frozenset[str]
    template: Template

    @classmethod
    def of(
        cls,
        rules: IdentityRules,
        claims: ClaimNames,
        server_name: str,
        *,
        issuer_matters: bool,
        linked_issuers: frozenset[str] = frozenset(("",)),
    ) -> "UserMapping":
        """Build the mapping, its template parsed once."""
        return cls(rules, claims, server_name, issuer_matters, linked_issuers, parse_template(rules.localpart))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logs in: the subject as its issuer names it, and the Matrix user that it maps to.

    `issuer` is "" for a token without one; only where `issuer_matters` was it checked. The same subject of a linked
    issuer is the same person.
    """

    issuer: str
    subject: str
    localpart: str
    user_id: str
    display_name: str | None = None
    avatar: str | None = None
    issuer_matters: bool = True
    linked_issuers: frozenset[str] = frozenset(("",))


def identify(claims: Claims, mapping: UserMapping) -> Identity:
    """Return the identity that verified claims stand for; raises `Refused` where a rule forbids it."""
    subject = find_subject(claims, mapping)
    check_required_claims(claims, mapping)
    localpart = fold(fill_template(claims, subject, mapping), mapping)
    user_id = check_localpart(localpart, mapping)
    check_allowed(localpart, mapping.rules)
    issuer = _text_claim(claims, "iss") or ""
    if not is_storable(issuer):
        raise Refused(Refusal.CLAIM_INVALID, "iss")
    if not is_storable(subject):
        raise Refused(Refusal.SUBJECT_MISSING, reason=f"the subject has a NUL or over {MAX_KEY_BYTES} bytes")
    return Identity(
        issuer=issuer,
        subject=subject,
        localpart=localpart,
        user_id=user_id,
        display_name=_text_claim(claims, mapping.claims.display_name_claim),
        avatar=_text_claim(claims, mapping.claims.avatar_claim),
        issuer_matters=mapping.issuer_matters,
        linked_issuers=mapping.linked_issuers,
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
    """Return the localpart for a mapped name: folded, without our server name, and escaped as configured."""
    return escape(strip_server_name(lowercase(name, mapping), mapping), mapping)


def lowercase(name: str, mapping: UserMapping) -> str:
    """Fold A-Z to lower case, and where historical names are taken other letters too, as homeservers have done."""
    if not mapping.rules.lowercase:
        return name
    name = name.translate(_UPPER_TO_LOWER)
    if mapping.rules.historical and all(char.isascii() or not char.lower().isascii() for char in name):
        return name.lower()
    return name


def strip_server_name(name: str, mapping: UserMapping) -> str:
    """Take a whole user id for its localpart; refuse one of another server, whatever the rules."""
    if not (name.startswith("@") and ":" in name):
        return name
    localpart, _, server_name = name[1:].partition(":")
    if server_name.translate(_UPPER_TO_LOWER) != mapping.server_name.translate(_UPPER_TO_LOWER):
        raise Refused(Refusal.BAD_LOCALPART, "The user belongs to another server")
    return localpart if mapping.rules.strip_server_name else name


def escape(name: str, mapping: UserMapping) -> str:
    """Write what a localpart can't have as `=xx` (appendix 'Mapping from other character sets')."""
    if not mapping.rules.escape:
        return name
    escaped = "".join(
        chr(byte) if chr(byte) in _ALLOWED and byte != ord("=") else f"={byte:02x}" for byte in name.encode()
    )
    # Ours: a leading underscore is reserved for bridges.
    return "=5f" + escaped[1:] if escaped.startswith("_") else escaped


def check_localpart(localpart: str, mapping: UserMapping) -> str:
    """Return the user id of a localpart that a user may have, if only as one who is there (`is_historical`)."""
    if not localpart:
        raise Refused(Refusal.BAD_LOCALPART, "The user name is empty")
    if localpart.startswith("_"):
        raise Refused(Refusal.BAD_LOCALPART, "A user name may not begin with an underscore")
    # A colon ends a localpart, and with @ in front it would be taken for a whole user id.
    if not mapping.rules.historical or ":" in localpart or localpart.startswith("@") or not localpart.isprintable():
        check_grammar(localpart)
    user_id = f"@{localpart}:{mapping.server_name}"
    if len(user_id.encode()) > MAX_USER_ID_BYTES:
        raise Refused(Refusal.BAD_LOCALPART, f"The user id is longer than {MAX_USER_ID_BYTES} bytes")
    return user_id


def check_grammar(localpart: str) -> None:
    """Refuse a localpart that no new user may have: one out of the grammar, or of digits only."""
    if not is_grammatical(localpart):
        raise Refused(Refusal.BAD_LOCALPART, "A user name can only contain the characters a-z, 0-9 and ._=/+-")
    if localpart.isdigit():
        raise Refused(Refusal.BAD_LOCALPART, "A user name may not be digits only")


def is_grammatical(localpart: str) -> bool:
    """Say whether a localpart has the characters of the grammar alone."""
    return _ALLOWED.issuperset(localpart)


def is_historical(localpart: str) -> bool:
    """Say whether a localpart is good for a user who is there already, and never for a new one."""
    return not is_grammatical(localpart) or localpart.isdigit()


def check_allowed(localpart: str, rules: IdentityRules) -> None:
    """Check the lists. Both fail closed: `deny` looks anywhere in the name, `allow` must match all of it."""
    denied = next((pattern.pattern for pattern in rules.deny if pattern.search(localpart)), None)
    if localpart == SENDER_LOCALPART or denied is not None:
        by = f" by {denied!r}" if denied is not None else ""
        raise Refused(Refusal.IDENTITY_REFUSED, reason=f"localpart {localpart!r} is denied{by}")
    if rules.allow and not any(pattern.fullmatch(localpart) for pattern in rules.allow):
        raise Refused(Refusal.IDENTITY_REFUSED, reason=f"localpart {localpart!r} is not allowed")


def _text_claim(claims: Claims, path: str | None) -> str | None:
    value: Any = find_claim(claims, path) if path else None
    return value if isinstance(value, str) and value else None
