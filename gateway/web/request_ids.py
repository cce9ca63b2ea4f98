"""The id of a request, by which its lines in the logs of all hops are found.

A trusted proxy says it in `X-Request-Id`; for all others it is made, cheaply, and only where something needs it.
"""

import itertools
import re
import secrets
from typing import Final

from multidict import MultiMapping

from gateway.core.headers import Hop

FIELD: Final = "X-Request-Id"
# What UUIDs, nginx's $request_id and the ids of cloud balancers consist of; nothing that could end a line or a value.
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


class RequestIds:
    """Gives requests their ids."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def of(self, headers: MultiMapping[str], hop: Hop) -> str:
        """Return an id for a request with these fields that came over `hop`: the one that it brings, or a new one."""
        values = headers.getall(FIELD, []) if hop.trusted else []
        if len(values) == 1 and _ACCEPTED.fullmatch(values[0]):
            return values[0]
        return f"{self._prefix}-{next(self._numbers):x}"
