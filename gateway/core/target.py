"""The target of a request as the homeserver gets it (RFC 9112 3.2): octet for octet, without a scheme and a host."""

from gateway.errors import Refusal, Refused


def origin_form(method: str, target: str, host: str) -> str:
    """Return the target in origin-form or asterisk-form; raises `Refused` for one that could mean something else.

    One in absolute-form must name the request's own `Host`, which is "" where there is none (RFC 9112 3.2.2).
    """
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        raise Refused(Refusal.BAD_REQUEST, "The request target is not a path")
    authority = rest.partition("/")[0].partition("?")[0]
    if not authority or authority.lower() != host.lower():  # RFC 9110 4.2.1: there must be a host
        raise Refused(Refusal.BAD_REQUEST, "The request target names another host")
    path = rest.removeprefix(authority)
    if not path and method == "OPTIONS":  # RFC 9112 3.2.4, of the server as a whole
        return "*"
    return path if path.startswith("/") else f"/{path}"  # RFC 9112 3.2.1
