"""What the most lenient JSON readers could make of a text that the strict one refuses, or reads differently.

The rule of this file: a member that any reader finds is found here; one that none finds, in odd texts alone.
Python takes the last of two members of a name, others the first. Go's encoding/json ignores the case of names, puts
U+FFFD for what is not UTF-8, and its decoder ignores what follows the object. Python's json.loads takes UTF-16 too.
"""

import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from gateway.core.strict_json import TooManyValues

# An object or array for so few octets is more than claims ever hold: `"a":{"b":1},` has more.
_LEAST_OCTETS: Final = 8
# Escapes cost a reader more than other text; up to so many, a text may be read a second time.
_MAX_BACKSLASHES: Final = 2048
# White space (RFC 8259 2), and the byte order marks of UTF-8 and UTF-16.
_BEFORE: Final = b" \t\r\n\xef\xbb\xbf\xff\xfe"


def may_hold(raw: bytes, name: str, values: Collection[str], refused: ValueError) -> bool:
    """Say whether a reader may find an object in `raw` that has one of the `values` as its member `name`.

    Names and values are ASCII; `refused` is why `parse_small_object` does not take the text. One that can't be read
    here, because it has too many values or is UTF-16 or UTF-32, counts as one that may as soon as it holds the words,
    or an escape that could be a part of them.
    """
    octets = raw.translate(None, b"\0").lstrip(_BEFORE)  # ASCII in UTF-16 and UTF-32 is itself between NULs
    if not octets.startswith(b"{") or not (b"\\u00" in octets or _has_words(octets, name, values)):
        return False
    if isinstance(refused, TooManyValues) or b"\0" in raw or raw.count(b"\\") > _MAX_BACKSLASHES:
        return True
    try:
        # Latin-1 reads all octets: ASCII is itself, and whatever the others mean, they are no part of the words.
        members, _ = _DECODER.raw_decode(octets.decode("latin-1"))
    except ValueError:
        return False
    return holds(members, name, values)


def parse_loosely(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that Python's own reader finds in UTF-8, as fast as it can; ValueError where none."""
    if raw.count(b"[") + raw.count(b"{") > len(raw) // _LEAST_OCTETS:
        raise TooManyValues
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def holds(members: Iterable[tuple[str, Any]], name: str, values: Collection[str]) -> bool:
    """Say whether one of the `members` has this name, in upper or lower case, and one of the `values`."""
    return any(
        len(other) == len(name) and other.lower() == name and isinstance(value, str) and value in values
        for other, value in members
    )


def _has_words(octets: bytes, name: str, values: Collection[str]) -> bool:
    return any(value.encode() in octets for value in values) and name.encode() in octets.lower()


# An object is a tuple of its members, all of them; an array is a list.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, strict=False)
