"""The answer to `GET /login` with our flow in it (client-server specification, 'GET /_matrix/client/v3/login')."""

import json
from collections.abc import Iterable

from gateway.core.strict_json import parse_object


def add_flows(body: bytes, login_types: Iterable[str]) -> bytes | None:
    """Return the body with our login types appended to `flows` where absent; None: it stays as it came."""
    try:
        answer = parse_object(body)
        flows = answer.get("flows")
        if not isinstance(flows, list):
            return None
        offered = [flow.get("type") for flow in flows if isinstance(flow, dict)]
        missing = [{"type": login_type} for login_type in login_types if login_type not in offered]
        if not missing:
            return None
        answer["flows"] = flows + missing
        return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None
