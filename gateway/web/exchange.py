"""One request and its answer, on their way through the gateway: what every handler is given.

The rule of this file: whatever becomes of a request, it is answered or broken off once, and told of once.
"""

from typing import Final, Protocol

from gateway.core.headers import Hop
from gateway.errors import Refusal, Refused
from gateway.http.messages import Request
from gateway.http.server_connection import ServerConnection
from gateway.http.states import NONE
from gateway.upstream.pool import Reply
from gateway.web.answers import is_preflight, preflight_reply, refusal, reply_octets
from gateway.web.observed import Ended, Observers

# After these, what comes on the connection can't be told from the rest of the request.
_CLOSING: Final = frozenset((Refusal.BAD_REQUEST, Refusal.METHOD_NOT_ALLOWED, Refusal.REQUEST_TIMEOUT, Refusal.FAULT))
# The homeserver can't be asked.
_UNREACHABLE: Final = frozenset((Refusal.HOMESERVER_UNREACHABLE, Refusal.HOMESERVER_TOO_SLOW))


class AtWork(Protocol):
    """What answers a request: a task, or the transfer to the homeserver and back."""

    def cancel(self) -> object:
        """End it at once; nothing more of it reaches the client."""


class Exchange:
    """A request that came over `hop`; its `target` is in origin-form (RFC 9112 3.2.1), `began` is in seconds."""

    __slots__ = (
        "_ended",
        "_observers",
        "_request_id",
        "at_work",
        "began",
        "connection",
        "hop",
        "request",
        "route",
        "target",
    )

    def __init__(self, observers: Observers, connection: ServerConnection, request: Request, hop: Hop) -> None:
        self._observers = observers
        self._request_id = ""
        self._ended = False
        self.connection = connection
        self.request = request
        self.hop = hop
        self.target = request.target
        self.route = "relay"
        self.at_work: AtWork | None = None
        self.began = 0.0

    @property
    def request_id(self) -> str:
        """The id by which the lines of the logs are found; made when it is asked for first."""
        if not self._request_id:
            self._request_id = self._observers.request_ids.of(self.request.headers, self.hop)
        return self._request_id

    def _id(self) -> str:
        return self.request_id

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection goes on after an answer that begins now (RFC 9112 9.3).

        It does not where octets of the body, announced or on their way, will not be read.
        """
        request = self.request
        return request.keep_alive and request.body.ended and self.connection.takes_more

    def reply(self, reply: Reply, *, close: bool = False) -> None:
        """Send an answer of ours, or one of the homeserver as our own; `close` ends the connection behind it."""
        if self.request.answer is NONE and not self.connection.transport.is_closing():
            keep_alive = self.keeps_alive and not close
            octets = reply_octets(self.request, reply, keep_alive=keep_alive)
            self.connection.finish_answer(self.request, octets, keep_alive=keep_alive)
            self.end(reply.status, 0 if self.request.method == "HEAD" else len(reply.body))
        else:
            self.end(0 if self.connection.transport.is_closing() else reply.status, 0)
            self.connection.break_off()

    def refuse(self, refused: Refused) -> None:
        """Answer with a refusal; where the answer has begun already, it is broken off."""
        self._observers.refused(self.request, self.request_id, refused)
        if refused.refusal in _UNREACHABLE and is_preflight(self.request):
            self.reply(preflight_reply())
        else:
            self.reply(refusal(refused), close=refused.refusal in _CLOSING)

    def fail(self, fault: Exception) -> None:
        """End the work for a fault of ours, and tell the client and the log of it."""
        self._end_work()
        self._observers.failed(self.request_id, fault)
        self.reply(refusal(Refused(Refusal.FAULT)), close=True)

    def end(self, status: int, sent: int, *, relayed: bool = False) -> None:
        """Say what was answered, with so many octets of a body; a status of 0: the client has left."""
        if not self._ended:
            self._ended = True
            self.at_work = self.request.work = None
            if self._observers.watch:
                ended = Ended(self.route, self.began, status, sent, relayed)
                self._observers.ended(self.request, self.hop, ended, self._id)

    def abandon(self) -> None:
        """Close the connection of a request that nobody answers any more, as at the end of the program."""
        if not self._ended:
            self.end(0, 0)
            self.connection.break_off()

    # The connection's word.

    def cancel(self) -> None:
        """End the work for a client that has left."""
        self._end_work()
        self.end(0, 0)

    def stop(self) -> None:
        """End the work because we stop."""
        self._end_work()
        self.refuse(Refused(Refusal.STOPPING))

    def stall(self) -> None:
        """End the work of whose bodies no octet has moved for too long."""
        self._end_work()
        body = self.request.body
        waits_for_client = not (body.ended or body.waiting)
        late = Refusal.REQUEST_TIMEOUT if waits_for_client else Refusal.HOMESERVER_TOO_SLOW
        self.refuse(Refused(late, reason="no octet of a body has moved for stall_timeout"))

    def _end_work(self) -> None:
        if self.at_work is not None:
            self.at_work.cancel()
