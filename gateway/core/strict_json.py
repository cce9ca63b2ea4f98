"""JSON (RFC 8259) read strictly: one meaning for every text that is accepted, and a plain ValueError for the rest.

Refused beside broken syntax: anything but UTF-8, duplicate members, NaN and Infinity, lone surrogates,
and nesting deeper than `MAX_DEPTH`. What a stranger sends is read by `parse_small_object`, which bounds the work.
"""

import json
import math
from itertools import chain
from typing import Any, Final

# Tokens of Keycloak and Entra ID nest 3 to 5 deep.
MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 400

# What a small text may hold outside of its strings. A login body has 2 objects and 10 members, the header of a token
# 1 object, 5 members and perhaps a chain of 4 certificates.
_MAX_CONTAINERS: Final = MAX_DEPTH
_MAX_COMMAS: Final = 256
# Quotes and backslashes, up to which it is worth while to tell what is in a string from what is not.
_MAX_MARKS: Final = 1024
# All octets but these are dropped before anything is counted: that is the cheapest look at a text.
_OTHERS: Final = bytes(octet for octet in range(256) if octet not in b"[{,")


class TooManyValues(ValueError):
    """A text is not small, and was not read."""

    def __init__(self) -> None:
        super().__init__("nested too deeply, or too many values")


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that `raw` holds; ValueError says in a few words why it is none."""
    return _parse(raw, _DECODER)


def parse_small_object(raw: bytes, *, finite: bool = False) -> dict[str, Any]:
    """Return what `parse_object` does of a text that `is_small`; any other is refused before it is read.

    `finite`: numbers such as 1e400 are refused too, which some readers take for infinity and others refuse.
    """
    if not is_small(raw):
        raise TooManyValues
    return _parse(raw, _FINITE_DECODER if finite else _DECODER)


def _parse(raw: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    try:
        value = decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    # Octets of UTF-8 hold no surrogate, only an escape does, and what is nested has its brackets.
    if b"\\ud" in raw or b"\\uD" in raw or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_values(value)
    return value


def is_small(raw: bytes) -> bool:
    """Say whether a text holds so few values, whatever its size, that they cost next to nothing to read.

    A reader makes a value for each comma and each bracket before it finds what is wrong with a text. Those in strings
    are legal text; a text is not small when too much in it looks like the end of a string to tell them apart.
    """
    if _has_few_values(raw):
        return True
    if raw.count(b'"') + raw.count(b"\\") > _MAX_MARKS:
        return False
    parts = raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    return _has_few_values(b"".join(parts[::2]))


def _has_few_values(raw: bytes) -> bool:
    marks = raw.translate(None, _OTHERS)
    if len(marks) > _MAX_COMMAS + _MAX_CONTAINERS:
        return False
    commas = marks.count(b",")
    return commas <= _MAX_COMMAS and len(marks) - commas <= _MAX_CONTAINERS


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


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


# Built once: that takes longer than it takes to read a small object.
_HOOKS: Final[dict[str, Any]] = {
    "object_pairs_hook": _unique,
    "parse_constant": _refuse_constant,
    "parse_int": _bounded_integer,
}
_DECODER: Final = json.JSONDecoder(**_HOOKS)
_FINITE_DECODER: Final = json.JSONDecoder(**_HOOKS, parse_float=_finite)


def _check_values(value: dict[str, Any]) -> None:
    """Refuse what is nested too deeply, and lone surrogates: level by level, a level at once."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = [chain(outer, outer.values()) if isinstance(outer, dict) else outer for outer in level]
        values = list(chain.from_iterable(inner))
        try:
            "".join([value for value in values if isinstance(value, str) and not value.isascii()]).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate in a string") from None
        level = [value for value in values if isinstance(value, (dict, list))]
        if not level:
            return
    raise ValueError("nested too deeply")
