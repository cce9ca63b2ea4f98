"""What to do about a user's account: decided from the stored row, the identity and the rules.

The order that a crash can't break: row `registering`, commit, register at the homeserver (which may be repeated), row
`active`. Where that ends without a clear answer the row becomes `pending`: an account that is soon there is ours.
With `existing_accounts = "refuse"` one login at a time registers: "in use" then says that it was there before.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from gateway.core.identity import Identity, is_historical
from gateway.errors import Refusal, Refused

ExistingAccounts: TypeAlias = Literal["link", "refuse"]

# How long a registration may take, with all that is asked for it: a call takes up to 30 s, a question after it 10 s.
CALLS_SECONDS: Final = 45
# How long a row is `registering` at most, unless its process died: writing down the outcome takes 5 s.
REGISTRATION_SECONDS: Final = 60
# How long an account that is there after a registration that broke off counts as made by it.
DOUBT_SECONDS: Final = 600


class State(enum.StrEnum):
    """The state of a row."""

    REGISTERING = "registering"
    PENDING = "pending"
    ACTIVE = "active"
    LOCKED = "locked"
    # What was not active when it was locked, and is `pending` again when it is unlocked.
    LOCKED_PENDING = "locked_pending"

    @property
    def is_locked(self) -> bool:
        """Whether nobody may log in."""
        return self in {State.LOCKED, State.LOCKED_PENDING}


@dataclass(frozen=True, slots=True)
class Account:
    """A row: one Matrix account and the one subject that owns it. Times in seconds since the epoch."""

    localpart: str
    issuer: str
    subject: str
    state: State
    created_at: int
    last_seen_at: int | None


@dataclass(frozen=True, slots=True)
class AccountRules:
    """Which accounts a login may make or take over."""

    register_user: bool
    existing_accounts: ExistingAccounts

    def of(self, localpart: str) -> "AccountRules":
        """Return the rules for one name: no account is made by a name that no new user may have."""
        return replace(self, register_user=False) if is_historical(localpart) else self


class Step(enum.Enum):
    """What comes next on the way to a session."""

    OPEN_SESSION = "open_session"
    WAIT = "wait"
    PROVIDE = "provide"
    ASK_HOMESERVER = "ask_homeserver"


def choose_account(rows: list[Account], identity: Identity) -> Account | None:
    """Return the row that this subject owns, None when there is none yet.

    `rows` are those with its localpart or its subject. A subject keeps its account when its claims come to map to
    another name; a name that another subject owns is refused.
    """
    owned = [row for row in rows if _owns(row, identity)]
    if owned:
        return min(owned, key=lambda row: _distance(row, identity))
    if any(row.localpart == identity.localpart for row in rows):
        raise Refused(
            Refusal.IDENTITY_REFUSED,
            reason=f"{identity.user_id} is owned by another subject, or another issuer; linked_issuers can join two",
        )
    return None


def _owns(row: Account, identity: Identity) -> bool:
    # Where issuers are not checked, the keys alone speak for the subject.
    fits = not identity.issuer_matters or row.issuer == identity.issuer or row.issuer in identity.linked_issuers
    return fits and row.subject == identity.subject


def _distance(row: Account, identity: Identity) -> tuple[bool, bool, int, str]:
    return row.issuer != identity.issuer, row.localpart != identity.localpart, row.created_at, row.localpart


def lacks_issuer(account: Account, identity: Identity) -> bool:
    """Say whether the account is still anybody's with this subject, and is from now on this issuer's alone."""
    return identity.issuer_matters and bool(identity.issuer) and not account.issuer


def next_step(account: Account | None, rules: AccountRules, now: float) -> Step:
    """Return what to do for this account at `now` (seconds since the epoch); raises `Refused` when it is locked."""
    if account is not None and account.state is State.ACTIVE:
        return Step.OPEN_SESSION
    check_open(account)
    if account is not None and rules.existing_accounts == "refuse" and is_registering(account, now):
        return Step.WAIT
    if not rules.register_user or (account is None and rules.existing_accounts == "refuse"):
        return Step.ASK_HOMESERVER
    return Step.PROVIDE


def check_open(account: Account | None) -> None:
    """Refuse an account that is locked."""
    if account is not None and account.state.is_locked:
        raise Refused(Refusal.ACCOUNT_LOCKED, reason="locked in the gateway's database")


def is_registering(account: Account, now: float) -> bool:
    """Say whether a login may be at registering the account, at `now` in seconds since the epoch."""
    # In either direction, should the clock have been set back.
    return account.state is State.REGISTERING and abs(now - account.created_at) < REGISTRATION_SECONDS


def check_made(rules: AccountRules, row: Account | None, now: float, *, made: bool) -> None:
    """Refuse an account that no registration of ours made, as far as that can be known.

    `row` was there before this login, None if this login wrote it. One whose registration broke off may have its
    account from then, but not for longer than `DOUBT_SECONDS`: somebody else can have made it since.
    """
    if not made and rules.existing_accounts == "refuse" and (row is None or now - row.created_at > DOUBT_SECONDS):
        raise _existing()


def is_settled_as_ours(rules: AccountRules, row: Account | None, now: float) -> bool:
    """Say whether an account that `check_made` lets pass, and that is there now, was made by a login that broke off.

    Where existing accounts are linked, only a row that waits for that says so.
    """
    if rules.existing_accounts == "refuse":
        return True
    return row is not None and row.state is State.PENDING and now - row.created_at <= DOUBT_SECONDS


def check_existence(account: Account | None, rules: AccountRules, *, exists: bool) -> None:
    """Refuse a user that the homeserver lacks and we may not make, and one that it has and we may not take over."""
    if not exists and not rules.register_user:
        raise user_not_found()
    if exists and account is None and rules.existing_accounts == "refuse":
        raise _existing()


def user_not_found() -> Refused:
    """Return the refusal of a user that the homeserver lacks."""
    return Refused(Refusal.USER_NOT_FOUND, reason="the homeserver has no such user, and register_user is false")


def _existing() -> Refused:
    return Refused(Refusal.IDENTITY_REFUSED, reason="the account exists already, and existing_accounts is 'refuse'")
