"""The story of a login: limits, token, identity, account, session, and what is told of it.

The rule of this file: a token for single use is given back if it did not come to a session, and not if it may have.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.attempts import Attempt, Attempts, Client
from gateway.core.accounts import Account, check_open, choose_account
from gateway.core.identity import identify
from gateway.core.login_request import LoginRequest, PastedToken, check_names
from gateway.core.tokens import is_signed, last_valid_moment
from gateway.errors import OF_THE_USER, Refusal, Refused
from gateway.issuers import Issuers
from gateway.limits import Limits
from gateway.logs import Logger
from gateway.metrics import Metrics
from gateway.profile import Profile
from gateway.provision import Provision, Verified
from gateway.storage.accounts import Accounts
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import UsedTokens
from gateway.upstream.answers import HomeserverAnswered, MaybeMade, NothingDone
from gateway.upstream.pool import NotConnected, Reply


@dataclass(frozen=True, slots=True)
class SignIn:
    """Logs users in; every part is what the configuration made of it. `now` gives seconds since the epoch."""

    issuers: Issuers
    limits: Limits
    accounts: Accounts
    last_seen: LastSeen
    used_tokens: UsedTokens
    provision: Provision
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

    async def _verify(self, request: LoginRequest, attempt: Attempt, now: float) -> Verified:
        with self.metrics.login_step("verify"):
            issuer, claims = await self.issuers.verified(request.token, now, attempt)
        if attempt.limited_as is not None:
            self.limits.check_user(*attempt.limited_as)
        identity = identify(claims, issuer.mapping)
        if not issuer.rules.validate_signature:
            self.log.warning("signature_not_checked", user_id=identity.user_id)
        return Verified(issuer, claims, identity, request, attempt.client)

    async def _log_in(self, who: Verified, attempt: Attempt, now: float) -> Reply:
        identity, request = who.identity, who.request
        account = None
        try:
            with self.metrics.login_step("database"):
                account = choose_account(await self.accounts.find(identity), identity)
                check_names(request, identity.user_id if account is None else self.provision.user_id(account))
                self.provision.sessions.check(request)
                await self._use_up(who, now)
            account, made = await self._admit(who, account)
            reply = who.session or await self.provision.session(who, account)
            # Whoever locked it meanwhile has ended the sessions that were there; nobody gets the token of this one.
            check_open(await self.accounts.get(account.localpart))
        except (Refused, HomeserverAnswered) as error:
            attempt.user_id = identity.user_id if account is None else self.provision.user_id(account)
            if _opened_nothing(error):
                await self._give_back(who)
            raise
        self.last_seen.note(account.localpart, now)
        self.profile.set_beside(account.localpart, identity, made=made)
        attempt.user_id = self.provision.user_id(account)
        self.attempts.opened(attempt, reply, made=made)
        return reply

    async def _admit(self, who: Verified, account: Account | None) -> tuple[Account, bool]:
        """Return what `provision.account` does; a failure that is not the token's gives it back."""
        identity = who.identity
        try:
            # Not before: neither another subject nor a token that was used may use up the logins of this one.
            self.limits.count_login(identity.issuer if identity.issuer_matters else "", identity.subject)
            return await self.provision.account(who, account)
        except (Refused, HomeserverAnswered) as error:
            # Not twice, or it could be another login's use that goes; nor where a session may have been opened.
            asked = isinstance(error, MaybeMade) and self.provision.sessions.makes_accounts
            used = who.session is not None or asked or _opened_nothing(error)
            if not used and (error.status == 429 or error.status >= 500):
                await self._give_back(who)
            raise

    async def _use_up(self, who: Verified, now: float) -> None:
        rules = who.issuer.rules
        if not rules.single_use:
            return
        device_id = who.request.device_id if rules.single_use_grace else None
        ends = last_valid_moment(who.claims, rules)
        if not await self.used_tokens.use(who.identity.issuer, who.claims["jti"], ends, now, device_id):
            raise Refused(Refusal.ALREADY_USED, reason="single_use is on")

    async def _give_back(self, who: Verified) -> None:
        if not who.issuer.rules.single_use:
            return
        try:
            await self.used_tokens.give_back(who.identity.issuer, who.claims["jti"])
        except Refused as refused:
            self.log.warning("token_not_given_back", reason=refused.reason)


def _opened_nothing(error: Refused | HomeserverAnswered) -> bool:
    """Say whether no session can have been opened, whichever call failed, and the same token may do later."""
    return isinstance(error, NotConnected | NothingDone) or (
        isinstance(error, HomeserverAnswered) and error.status == 429
    )
