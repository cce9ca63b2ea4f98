"""JSON (RFC 8259) read strictly: one meaning for every text that is accepted, and a plain ValueError for the rest.

Refused beside broken syntax: anything but UTF-8, duplicate members, NaN and Infinity, lone surrogates,
and nesting deeper than `MAX_DEPTH`.
"""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

# Tokens of Keycloak and Entra ID nest 3 to 5 deep.
MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 400


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that `raw` holds; ValueError says in a few words why it is none."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    # Octets of UTF-8 hold no surrogate, only an escape does, and what is nested has its brackets.
    if b"\\u" in raw or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_values(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _bounded_integer(digits: str) -> int:
    # Python refuses to convert thousands of digits, because that takes quadratic time.
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number with too many digits")
    return int(digits)


# Built once: that takes longer than it takes to read a small object.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_bounded_integer
)


def _check_values(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _containers(outer: dict[str, Any] | list[Any]) -> Iterator[Any]:
    """Give the objects and lists directly in this one, and check the strings beside them."""
    for member in chain(outer, outer.values()) if isinstance(outer, dict) else outer:
        if isinstance(member, dict | list):
            yield member
        elif isinstance(member, str) and not member.isascii():
            try:
                member.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("a lone surrogate in a string") from None
