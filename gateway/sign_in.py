"""The story of a login: limits, token, identity, account, session.

The order of effects: the row of a first login is committed before the homeserver is asked to register the user, and
becomes active after; every call to the homeserver may be repeated. So a crash at any point, and two first logins at
once, end with one account and with both logins done. No transaction is open while the homeserver is asked.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.attempts import Attempt, Attempts, Client
from gateway.core.accounts import (
    Account,
    Step,
    check_existence,
    check_made,
    check_open,
    choose_account,
    lacks_issuer,
    next_step,
    user_not_found,
)
from gateway.core.identity import Identity, check_allowed, identify
from gateway.core.login_request import LoginRequest, PastedToken, check_names
from gateway.core.tokens import Claims, is_signed, last_valid_moment
from gateway.errors import OF_THE_USER, Refusal, Refused
from gateway.issuers import Issuer, Issuers
from gateway.limits import Limits
from gateway.logs import Logger
from gateway.metrics import Metrics
from gateway.profile import Profile
from gateway.storage.accounts import Accounts
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import UsedTokens
from gateway.upstream.homeserver import HomeserverAnswered, MaybeMade
from gateway.upstream.pool import NotConnected, Reply
from gateway.upstream.sessions import MadeMeanwhile, SessionMethod, UnknownUser, Wanted

# How often a row that another login writes is looked at, in seconds; a registration takes 0.05 s or more.
_LOOK_AGAIN: Final = 0.05


@dataclass(slots=True)
class _Verified:
    """A login whose token passed every check; `session` is there when making the account opened one."""

    issuer: Issuer
    claims: Claims
    identity: Identity
    request: LoginRequest
    client: Client
    session: Reply | None = None

    def wanted(self, localpart: str) -> Wanted:
        may_make = self.issuer.accounts.register_user
        return Wanted(localpart, self.request, self.identity.display_name, self.client.fields, may_make)


@dataclass(frozen=True, slots=True)
class SignIn:
    """Logs users in; every part is what the configuration made of it. `now` gives seconds since the epoch."""

    issuers: Issuers
    limits: Limits
    accounts: Accounts
    last_seen: LastSeen
    used_tokens: UsedTokens
    server_name: str
    sessions: SessionMethod
    profile: Profile
    attempts: Attempts
    now: Callable[[], float]
    log: Logger
    metrics: Metrics

    async def __call__(self, request: LoginRequest, client: Client) -> Reply:
        """Return the homeserver's answer with the session.

        Raises `Refused`, or `HomeserverAnswered` where the homeserver refuses this user itself.
        """
        attempt, now = Attempt(client, request.device_id or ""), self.now()
        try:
            self.limits.check_address(client.limited_as)
            who = await self._verify(request, attempt, now)
            # Not before: nobody without a good token takes a place.
            with self.limits.at_work.one():
                return await self._log_in(who, attempt, now)
        except (Refused, HomeserverAnswered) as error:
            self._count(error, attempt)
            self.attempts.refused(attempt, error)
            raise

    async def vouches_for(self, pasted: PastedToken, client: Client) -> bool:
        """Say whether one of our keys signed a token that came as a password.

        No key is waited for, and none is tried for an address that failed too often: raises `Refused`. A signature
        that does not verify counts as a failed login, so that nobody can try signatures here without end.
        """
        trust = await self.issuers.at_hand(pasted.token)
        if trust is None:
            return False  # nothing is tried, so nothing is counted
        self.limits.check_address(client.limited_as)
        signed = is_signed(pasted.token, trust)
        if not signed:
            self.limits.count_failure(client.limited_as)
        return signed

    def count_malformed(self, client: Client) -> None:
        """Count a login whose fields are wrong; raises `Refused` when the address failed too often before."""
        self.limits.check_address(client.limited_as)
        self.limits.count_failure(client.limited_as)

    def _count(self, error: Refused | HomeserverAnswered, attempt: Attempt) -> None:
        if isinstance(error, Refused) and error.status in {400, 403}:
            self.limits.count_failure(attempt.client.limited_as)
        of_user = error.refusal in OF_THE_USER if isinstance(error, Refused) else error.status in {401, 403}
        if of_user and attempt.limited_as is not None:
            self.limits.count_user_failure(*attempt.limited_as)

    async def _verify(self, request: LoginRequest, attempt: Attempt, now: float) -> _Verified:
        with self.metrics.login_step("verify"):
            issuer, claims = await self.issuers.verified(request.token, now, attempt)
        if attempt.limited_as is not None:
            self.limits.check_user(*attempt.limited_as)
        identity = identify(claims, issuer.mapping)
        if not issuer.rules.validate_signature:
            self.log.warning("signature_not_checked", user_id=identity.user_id)
        return _Verified(issuer, claims, identity, request, attempt.client)

    async def _log_in(self, who: _Verified, attempt: Attempt, now: float) -> Reply:
        identity, request = who.identity, who.request
        account = None
        try:
            with self.metrics.login_step("database"):
                account = choose_account(await self.accounts.find(identity), identity)
                check_names(request, identity.user_id if account is None else self._user_id(account))
                self.sessions.check(request)
                await self._use_up(who, now)
            account, made = await self._admit(who, account)
            with self.metrics.login_step("session"):
                reply = who.session or await self._open_session(who, account)
            # Whoever locked it meanwhile has ended the sessions that were there; nobody gets the token of this one.
            check_open(await self.accounts.get(account.localpart))
        except (Refused, HomeserverAnswered) as error:
            attempt.user_id = identity.user_id if account is None else self._user_id(account)
            if _opened_nothing(error):
                await self._give_back(who)
            raise
        self.last_seen.note(account.localpart, now)
        self.profile.set_beside(account.localpart, identity, made=made)
        attempt.user_id = self._user_id(account)
        self.attempts.opened(attempt, reply, made=made)
        return reply

    async def _admit(self, who: _Verified, account: Account | None) -> tuple[Account, bool]:
        """Return what `_provide` does; a failure that is not the token's gives it back."""
        identity = who.identity
        try:
            # Not before: neither another subject nor a token that was used may use up the logins of this one.
            self.limits.count_login(identity.issuer if identity.issuer_matters else "", identity.subject)
            return await self._provide(who, account)
        except (Refused, HomeserverAnswered) as error:
            # Not twice, or it could be another login's use that goes; nor where a session may have been opened.
            asked = isinstance(error, MaybeMade) and self.sessions.makes_accounts
            used = asked or _opened_nothing(error)
            if not used and (error.status == 429 or error.status >= 500):
                await self._give_back(who)
            raise

    async def _use_up(self, who: _Verified, now: float) -> None:
        rules = who.issuer.rules
        if not rules.single_use:
            return
        device_id = who.request.device_id if rules.single_use_grace else None
        ends = last_valid_moment(who.claims, rules)
        if not await self.used_tokens.use(who.identity.issuer, who.claims["jti"], ends, now, device_id):
            raise Refused(Refusal.ALREADY_USED, reason="single_use is on")

    async def _give_back(self, who: _Verified) -> None:
        if not who.issuer.rules.single_use:
            return
        try:
            await self.used_tokens.give_back(who.identity.issuer, who.claims["jti"])
        except Refused as refused:
            self.log.warning("token_not_given_back", reason=refused.reason)

    async def _provide(self, who: _Verified, account: Account | None) -> tuple[Account, bool]:
        """Return the subject's account, which the homeserver has, and whether this login made it.

        `account` is the row that was found for it, None if there was none.
        """
        identity, rules = who.identity, who.issuer.accounts
        made = False
        while True:
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

    async def _make_ready(self, who: _Verified, account: Account | None, step: Step) -> bool:
        """Bring row and account into being where they are missing; say whether this made the account."""
        identity, rules = who.identity, who.issuer.accounts
        exists = False
        if step is Step.ASK_HOMESERVER:
            exists = await self.sessions.exists(identity.localpart if account is None else account.localpart)
            if account is None and await self.accounts.find(identity):
                return False  # another login may have registered it since; then it is that one's to say
            check_existence(account, rules, exists=exists)
        if account is None:
            localpart = identity.localpart
            ours = await self.accounts.claim(identity, int(self.now()))
        else:
            localpart = account.localpart
            ours = await self.accounts.keep_pending(localpart)
        if not ours:
            return False
        made = not exists and await self._register(who, localpart, account)
        await self.accounts.activate(localpart)
        return made

    async def _register(self, who: _Verified, localpart: str, row: Account | None) -> bool:
        """Have the account made, and say whether it is new. The row goes after a refusal if this login wrote it."""
        rules = who.issuer.accounts
        try:
            with self.metrics.login_step("register"):
                made = await self.sessions.register(localpart)
            check_made(rules, row, self.now(), made=made)
            if self.sessions.makes_accounts:
                made = await self._open_first(who, localpart, row, made=made)
        except (MaybeMade, asyncio.CancelledError):
            await self.accounts.keep_pending(localpart)
            raise
        except (Refused, HomeserverAnswered):
            if row is None:
                await self.accounts.give_up(localpart)
            raise
        # Where existing accounts are refused, one that is there now was made by a login that broke off.
        return made or rules.existing_accounts == "refuse"

    async def _open_first(self, who: _Verified, localpart: str, row: Account | None, *, made: bool) -> bool:
        """Open the session that makes the account, and say whether it was this one that did."""
        wanted = who.wanted(localpart)
        try:
            who.session = await self.sessions.open(wanted)
        except MadeMeanwhile:
            made = False
            check_made(who.issuer.accounts, row, self.now(), made=made)
            who.session = await self.sessions.open(wanted)
        return made

    async def _open_session(self, who: _Verified, account: Account) -> Reply:
        wanted = who.wanted(account.localpart)
        try:
            return await self.sessions.open(wanted)
        except UnknownUser as unknown:
            # The homeserver lost an account that it had: its database is new, or older than ours.
            if not wanted.may_make:
                if unknown.doubtful and await self.sessions.exists(account.localpart):
                    raise HomeserverAnswered(unknown.reply) from None
                raise user_not_found() from None
        if await self.sessions.register(account.localpart):
            self.log.warning("account_made_again", user_id=self._user_id(account))
        try:
            return await self.sessions.open(wanted)
        except UnknownUser as unknown:
            if unknown.doubtful:
                raise HomeserverAnswered(unknown.reply) from None
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason="the homeserver does not know a user that it has just registered",
            ) from None

    def _user_id(self, account: Account) -> str:
        return f"@{account.localpart}:{self.server_name}"


def _opened_nothing(error: Refused | HomeserverAnswered) -> bool:
    """Say whether no session can have been opened, whichever call failed, and the same token may do later."""
    return isinstance(error, NotConnected) or (isinstance(error, HomeserverAnswered) and error.status == 429)
