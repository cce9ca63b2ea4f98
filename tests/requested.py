"""A request as a connection hands it over, without a connection: for what looks at nothing else of it."""

from collections.abc import Iterable

from gateway.http.messages import Request
from gateway.http.parser import HeadLimits, RequestHeads

LIMITS = HeadLimits(request_line=131072, field=16384, fields=100, fields_size=65536)


def requested(path: str = "/", fields: Iterable[tuple[str, str]] = ()) -> Request:
    """A GET of `path` with these fields."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return RequestHeads(LIMITS).parse(f"GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode("latin-1"))
