"""The account and the session of a login whose token is good: found, or made where they are missing.

The order of effects: the row of a first login is committed before the homeserver is asked to register the user, and
becomes active after; every call to the homeserver may be repeated. So a crash at any point, and two first logins at
once, end with one account and with both logins done. No transaction is open while the homeserver is asked.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.attempts import Client
from gateway.core.accounts import (
    CALLS_SECONDS,
    DOUBT_SECONDS,
    Account,
    Step,
    check_existence,
    check_made,
    choose_account,
    is_registering,
    is_settled_as_ours,
    lacks_issuer,
    next_step,
    user_not_found,
)
from gateway.core.identity import Identity, check_allowed, check_grammar
from gateway.core.login_request import LoginRequest
from gateway.core.tokens import Claims
from gateway.errors import Refusal, Refused
from gateway.issuers import Issuer
from gateway.logs import Logger
from gateway.metrics import Metrics
from gateway.storage.accounts import Accounts
from gateway.upstream.answers import HomeserverAnswered, MaybeMade
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import MadeMeanwhile, SessionMethod, UnknownUser, Wanted

# How often a row that another login writes is looked at, in seconds; a registration takes 0.05 s or more.
_LOOK_AGAIN: Final = 0.05


@dataclass(slots=True)
class Verified:
    """A login whose token passed every check.

    `made` is the user whom it had the homeserver make, "" if none; `session` is there when that opened one.
    """

    issuer: Issuer
    claims: Claims
    identity: Identity
    request: LoginRequest
    client: Client
    session: Reply | None = None
    made: str = ""

    def wanted(self, localpart: str) -> Wanted:
        """Return the session to ask for."""
        may_make = self.issuer.accounts.of(localpart).register_user
        display_name, client = self.identity.display_name, self.client.fields
        return Wanted(localpart, self.request, display_name, client, may_make, fresh=localpart == self.made)


@dataclass(frozen=True, slots=True)
class Provision:
    """Provides accounts and sessions by `sessions`; `now` gives seconds since the epoch."""

    accounts: Accounts
    sessions: SessionMethod
    homeserver: Homeserver
    now: Callable[[], float]
    log: Logger
    metrics: Metrics

    async def account(self, who: Verified, account: Account | None) -> tuple[Account, bool]:
        """Return the subject's account, which the homeserver has, and whether this login made it.

        `account` is the row that was found for it, None if there was none.
        """
        identity = who.identity
        made = False
        while True:
            rules = who.issuer.accounts.of(identity.localpart if account is None else account.localpart)
            step = next_step(account, rules, self.now())
            if account is not None:
                # The lists hold for the account that the subject keeps too, should its claims map elsewhere now.
                check_allowed(account.localpart, who.issuer.mapping.rules)
            if account is not None and lacks_issuer(account, identity):
                await self.accounts.note_issuer(account.localpart, identity.issuer)
            elif account is not None and step is Step.OPEN_SESSION:
                return account, made
            elif step is Step.WAIT:
                await asyncio.sleep(_LOOK_AGAIN)
            elif await self._make_ready(who, account, step):
                made = True
            # Another login may have been faster in each of these.
            account = choose_account(await self.accounts.find(identity), identity)

    async def _make_ready(self, who: Verified, account: Account | None, step: Step) -> bool:
        """Bring row and account into being where they are missing; say whether this made the account."""
        identity, exists = who.identity, False
        localpart = identity.localpart if account is None else account.localpart
        if step is Step.ASK_HOMESERVER:
            exists = await self.sessions.exists(localpart)
            if account is None and await self.accounts.find(identity):
                return False  # another login may have registered it since; then it is that one's to say
            if not exists:
                check_grammar(localpart)
            check_existence(account, who.issuer.accounts.of(localpart), exists=exists)
        if account is None:
            await self.sessions.check_name(localpart, exists=exists)
            ours = await self.accounts.claim(identity, int(self.now()))
        else:
            ours = await self.accounts.keep_pending(localpart)
        if not ours:
            return False
        made = not exists and await self._register(who, localpart, account)
        first = await self.accounts.activate(localpart)
        # Of many logins at once that find what one made which broke off, one says so.
        settled = not exists and first and is_settled_as_ours(who.issuer.accounts, account, self.now())
        return made or settled

    async def _register(self, who: Verified, localpart: str, row: Account | None) -> bool:
        """Have the account made, and say whether it is new. The row goes after a refusal if this login wrote it."""
        try:
            return await self._make(who, localpart, row)
        except (MaybeMade, asyncio.CancelledError):
            await self.accounts.keep_pending(localpart)
            raise
        except (Refused, HomeserverAnswered):
            if row is None:
                await self.accounts.give_up(localpart)
            raise

    async def _make(self, who: Verified, localpart: str, row: Account | None) -> bool:
        """Have the account made and say whether it is new; raises as `register` and `open` of the method do."""
        try:
            async with asyncio.timeout(CALLS_SECONDS):
                with self.metrics.login_step("register"):
                    made = await self.sessions.register(localpart, who.client.fields, known=row is not None)
                    who.made = localpart if made else ""
                check_made(who.issuer.accounts, row, self.now(), made=made)
                return (
                    await self._open_first(who, localpart, row, made=made) if self.sessions.makes_accounts else made
                )
        except TimeoutError:
            reason = f"a registration took more than {CALLS_SECONDS} s"
            raise MaybeMade(Refusal.HOMESERVER_TOO_SLOW, reason=reason) from None

    async def _open_first(self, who: Verified, localpart: str, row: Account | None, *, made: bool) -> bool:
        """Open the session that makes the account, and say whether it was this one that did."""
        try:
            who.session = await self._open(who.wanted(localpart))
        except MadeMeanwhile:
            made, who.made = False, ""
            check_made(who.issuer.accounts, row, self.now(), made=made)
            who.session = await self._open(who.wanted(localpart))
        return made

    async def session(self, who: Verified, account: Account) -> Reply:
        """Return the homeserver's answer with a session of the account."""
        wanted = who.wanted(account.localpart)
        try:
            return await self._open(wanted)
        except UnknownUser as unknown:
            # The homeserver lost an account that it had: its database is new, or older than ours.
            opened_on = unknown.device_id
            if not wanted.may_make:
                if unknown.doubtful and await self.sessions.exists(account.localpart):
                    raise HomeserverAnswered(unknown.reply) from None
                raise user_not_found() from None
        if await self.sessions.register(account.localpart, wanted.client, known=True):
            self.log.warning("account_made_again", user_id=self.user_id(account))
        try:
            return await self._open(wanted.on_device(opened_on))
        except UnknownUser as unknown:
            if unknown.doubtful:
                raise HomeserverAnswered(unknown.reply) from None
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason="the homeserver does not know a user that it has just registered",
            ) from None

    async def _open(self, wanted: Wanted) -> Reply:
        with self.metrics.login_step("session"):
            return await self.sessions.open(wanted)

    async def settle(self) -> None:
        """Mark what logins that broke off have made as there, as long as it is known that nobody else made it.

        For `existing_accounts = "refuse"`, with which their subjects would be refused `DOUBT_SECONDS` later: the
        homeserver was asked before the row was written, and had no such user. Raises `Refused`.
        """
        now = self.now()
        for account in await self.accounts.unsettled(int(now) - DOUBT_SECONDS):
            if not is_registering(account, now) and await self.sessions.exists(account.localpart):
                await self.accounts.settle(account.localpart)
                self.log.info("registration_settled", user_id=self.user_id(account))

    def user_id(self, account: Account) -> str:
        """Return the whole user id of an account."""
        return self.homeserver.user_id(account.localpart)
