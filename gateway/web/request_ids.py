"""The id of a request, by which its lines in the logs of all hops are found.

A trusted proxy says it in `X-Request-Id`; for all others it is made, cheaply, and only where something needs it.
"""

import itertools
import re
import secrets
from typing import Final

from gateway.core.headers import Hop
from gateway.http1 import Request

FIELD: Final = "X-Request-Id"
# What UUIDs, nginx's $request_id and the ids of cloud balancers consist of; nothing that could end a line or a value.
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


class RequestIds:
    """Gives each request its id, always the same one."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def of(self, request: Request, hop: Hop) -> str:
        """Return the id of a request that came over `hop`."""
        if not request.request_id:
            said = self._said(request) if hop.trusted else ""
            request.request_id = said or f"{self._prefix}-{next(self._numbers):x}"
        return request.request_id

    def _said(self, request: Request) -> str:
        values = request.headers.getall(FIELD, [])
        return values[0] if len(values) == 1 and _ACCEPTED.fullmatch(values[0]) else ""
