"""The issuers that are believed: whose keys verify a token, by which rules, and which users its subjects are.

The `iss` of a token that nothing vouches for yet only selects the entry; with the entry's keys verified, `iss` is
checked like any other claim. So a token never meets keys or rules of another issuer (RFC 8725 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.attempts import Attempt
from gateway.core.accounts import AccountRules
from gateway.core.identity import UserMapping
from gateway.core.jws import read_header
from gateway.core.tokens import Claims, TokenRules, Trust, check_claims, choose_issuer, read_signed
from gateway.errors import Refused
from gateway.issuer_keys import IssuerKeys
from gateway.metrics import ANY_ISSUER


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer, or several that share all of this."""

    keys: IssuerKeys
    rules: TokenRules
    mapping: UserMapping
    accounts: AccountRules

    @property
    def name(self) -> str:
        """What metrics call it."""
        return issuer_name(self.rules)


def issuer_name(rules: TokenRules) -> str:
    """Return what metrics call an entry of the configuration: the first issuer that it names."""
    return rules.issuer[0] if rules.issuer else ANY_ISSUER


class Issuers:
    """The issuers of the configuration. With `by_name` a token's `iss` selects; else there is one for all tokens."""

    def __init__(self, issuers: Sequence[Issuer], *, by_name: bool) -> None:
        self._only = None if by_name else issuers[0]
        self._by_name = {name: issuer for issuer in issuers for name in issuer.rules.issuer}
        self.max_token_bytes = max(issuer.rules.max_token_bytes for issuer in issuers)

    async def verified(self, token: str, now: float, attempt: Attempt) -> tuple[Issuer, Claims]:
        """Return the claims of a token that passes every check, and the issuer whose checks these were.

        `now` is in seconds since the epoch. Raises `Refused` with the first check that fails; from a verified
        signature on, `attempt` knows whose it was.
        """
        header = read_header(token, self.max_token_bytes)
        issuer = self._only or choose_issuer(token, self._by_name)
        attempt.entry = issuer.name
        key_set = await issuer.keys.for_token(header)
        header, claims = read_signed(token, Trust(key_set, issuer.rules))
        if issuer.rules.validate_signature:
            attempt.signed(claims, issuer.mapping)
        check_claims(header, claims, issuer.rules, now)
        return issuer, claims

    async def at_hand(self, token: str) -> Trust | None:
        """Return the keys at hand that may have signed a token of the right form, None where there are none."""
        try:
            header = read_header(token, self.max_token_bytes)
            issuer = self._only or choose_issuer(token, self._by_name)
            key_set = await issuer.keys.for_token(header, wait=False)
        except Refused:
            return None
        kid = header.get("kid") if isinstance(header.get("kid"), str) else None
        fits = not issuer.rules.validate_signature or key_set.candidates(header["alg"], kid)
        return Trust(key_set, issuer.rules) if fits and len(token) <= issuer.rules.max_token_bytes else None
