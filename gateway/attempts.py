"""An attempt to log in: who is known to have made it, and how it ended, told once: to log, audit trail and metrics.

The rule of this file: what a token says is not repeated as true before its signature is verified.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.claims import find_claim
from gateway.core.headers import Field
from gateway.core.identity import UserMapping
from gateway.core.tokens import Claims
from gateway.errors import Refusal, Refused
from gateway.limits import network
from gateway.logs import Logger
from gateway.metrics import Metrics
from gateway.storage.audit import BY_HOMESERVER, OPENED, Audit, Entry
from gateway.upstream.answers import HomeserverAnswered
from gateway.upstream.pool import Reply


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: its address ("" when unknown), for whom its failures count, and what tells the homeserver of it.

    `limited_as` is "" for a proxy that stands for all its clients; `request_id` is by which logs name the request.
    """

    address: str
    limited_as: str
    fields: tuple[Field, ...] = ()
    request_id: str = ""

    @property
    def user_agent(self) -> str:
        """The program that it says it is, "" when it says nothing."""
        named = (value for name, value in self.fields if name.lower() == b"user-agent")
        return next(named, b"").decode("utf-8", "replace")


@dataclass(slots=True)
class Attempt:
    """What is known of an attempt; `limited_as` is the issuer and subject whose failures it counts for.

    `entry` names the issuer of the configuration whose keys the token meets, which says nothing of who made it.
    """

    client: Client
    device_id: str = ""
    entry: str = ""
    issuer: str = ""
    subject: str = ""
    user_id: str = ""
    limited_as: tuple[str, str] | None = None

    def signed(self, claims: Claims, mapping: UserMapping) -> None:
        """Note whose token it is: its signature verified, its claims may still be wrong."""
        subject = find_claim(claims, mapping.claims.subject_claim)
        issuer = claims.get("iss")
        self.issuer = issuer if isinstance(issuer, str) else ""
        if isinstance(subject, str) and subject:
            self.subject = subject
            self.limited_as = (self.issuer if mapping.issuer_matters else "", subject)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Tells how attempts end. `now` gives seconds since the epoch."""

    audit: Audit
    metrics: Metrics
    now: Callable[[], float]
    log: Logger

    def opened(self, attempt: Attempt, reply: Reply, *, made: bool) -> None:
        """Tell of a session; `reply` is the homeserver's answer, `made` says that the account is new."""
        self.log.info(
            "login",
            user_id=attempt.user_id,
            issuer=attempt.issuer,
            made=made,
            address=attempt.client.address,
            request_id=attempt.client.request_id,
        )
        device_id = reply.json().get("device_id")
        attempt.device_id = device_id if isinstance(device_id, str) else attempt.device_id
        # Subject and issuer are empty then: anybody could have written them.
        self._note(attempt, OPENED, "" if attempt.limited_as else "its signature was not checked")

    def refused(self, attempt: Attempt, error: Refused | HomeserverAnswered) -> None:
        """Tell of an attempt that was refused, by the gateway or by the homeserver."""
        say, once = self.log.info, ""
        if isinstance(error, Refused):
            outcome, reason = error.kind, error.reason
            if error.status >= 500:
                say = self.log.warning
            if error.refusal is Refusal.TOO_MANY_ATTEMPTS:
                once = repr(attempt.limited_as or network(attempt.client.address))
        else:
            outcome, reason = BY_HOMESERVER, str(error)
        say(
            "login_refused",
            refusal=outcome,
            reason=reason,
            user_id=attempt.user_id,
            address=attempt.client.address,
            request_id=attempt.client.request_id,
        )
        self._note(attempt, outcome, reason, once)

    def _note(self, attempt: Attempt, outcome: str, reason: str, once: str = "") -> None:
        self.metrics.count_login(attempt.entry, outcome)
        self.audit.note(
            Entry(
                at=self.now(),
                outcome=outcome,
                user_id=attempt.user_id,
                issuer=attempt.issuer,
                subject=attempt.subject,
                device_id=attempt.device_id,
                address=attempt.client.address,
                user_agent=attempt.client.user_agent,
                reason=reason,
                request_id=attempt.client.request_id,
            ),
            once,
        )
