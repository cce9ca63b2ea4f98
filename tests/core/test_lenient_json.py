"""A member that any reader of JSON finds is found, in texts that the strict reader refuses too."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lenient_json import may_hold, parse_loosely
from gateway.core.strict_json import parse_small_object

VALUES = ["org.matrix.login.jwt"]
JWT = b'"type": "org.matrix.login.jwt"'
PASSWORD = b'"type": "m.login.password"'


def found(raw: bytes) -> bool:
    try:
        parse_small_object(raw)
    except ValueError as error:
        return may_hold(raw, "type", VALUES, error)
    return may_hold(raw, "type", VALUES, ValueError())


HELD = {
    "the last of two": b"{%b, %b}" % (PASSWORD, JWT),
    "the first of two": b"{%b, %b}" % (JWT, PASSWORD),
    "beside another member twice": b'{%b, "a": 1, "a": 2}' % JWT,
    "in upper case": b"{%b}" % JWT.replace(b"type", b"TYPE"),
    "in both cases": b"{%b, %b}" % (PASSWORD, JWT.replace(b"t", b"T", 1)),
    "a name by escapes": rb'{"\u0074yp\u0045": "org.matrix.login.jwt"}',
    "a value by escapes": rb'{"type": "\u006frg\u002Ematrix.login.jwt"}',
    "beside a lone surrogate": rb'{%b, "a": "\ud800"}' % JWT,
    "beside a surrogate in octets": b'{%b, "a": "\xed\xa0\x80"}' % JWT,
    "beside what is not UTF-8": b'{%b, "a": "\xff"}' % JWT,
    "beside a control character": b'{%b, "a": "\n\x1b"}' % JWT,
    "beside a NUL": b'{%b, "a": "\0"}' % JWT,
    "beside a huge number": b'{%b, "a": %b}' % (JWT, b"9" * 5000),
    "beside a number out of range": b'{%b, "a": 1e999}' % JWT,
    "beside NaN": b'{%b, "a": NaN, "b": -Infinity}' % JWT,
    "beside deep nesting": b'{%b, "a": %b%b}' % (JWT, b"[" * 5000, b"]" * 5000),
    "behind deep nesting": b'{"a": %b%b, %b}' % (b'{"a":' * 500 + b"1", b"}" * 500, JWT),
    "behind many members": b"{%b, %b}" % (b",".join(b'"%d": 1' % number for number in range(999)), JWT),
    "many members and escapes": rb'{%b, "\u0054ype": "org.matrix.login.jwt"}'
    % b",".join(b'"%d": 1' % number for number in range(999)),
    "behind a byte order mark": b"\xef\xbb\xbf{%b}" % JWT,
    "behind white space": b" \t\r\n" * 50 + b"{%b}" % JWT,
    "before something else": b"{%b} garbage {" % JWT,
    "before a NUL": b"{%b}\0" % JWT,
    **{name: f"{{{JWT.decode()}, \u0122: '\u5c01'}}".encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be")},
    **{name: f"{{{JWT.decode()}}}".encode(name) for name in ("utf-32", "utf-32-le", "utf-32-be")},
}


@pytest.mark.parametrize("raw", HELD.values(), ids=HELD)
def test_a_member_that_a_reader_finds_is_found(raw: bytes) -> None:
    assert found(raw)


NOT_HELD = {
    "nothing": b"",
    "another value": b"{%b}" % PASSWORD,
    "another value twice": b"{%b, %b}" % (PASSWORD, PASSWORD),
    "broken": b"{%b, " % JWT,
    "a comma too many": b"{%b,}" % JWT,
    "no comma": b'{%b "token": "a"}' % JWT,
    "single quotes": b"{%b}" % JWT.replace(b'"', b"'"),
    "an invalid escape": rb'{%b, "a": "\x"}' % JWT,
    "an array": b"[{%b}]" % JWT,
    "pairs in an array": b'[["type", "org.matrix.login.jwt"]]',
    "a string": json.dumps(f"{{{JWT.decode()}}}").encode(),
    "in a member": b'{"a": {%b}, "b": 1, "b": 2}' % JWT,
    "in a string": b'{"type": "m.login.password", "a": "type org.matrix.login.jwt", "a": 1}',
    "a longer value": b'{"type": "org.matrix.login.jwts", "type": 1}',
    "a longer name": b'{"types": "org.matrix.login.jwt", "a": 1, "a": 2}',
    "another case of the value": b'{"type": "Org.matrix.login.jwt", "a": "type org.matrix.login.jwt"}',
    "a list": b'{"type": ["org.matrix.login.jwt"], "a": 1, "a": 2}',
    "deep nesting": b'{%b, "a": %b%b}' % (PASSWORD, b"[" * 5000, b"]" * 5000),
    "escapes": rb'{%b, "a": "%b", "a": 1}' % (PASSWORD, rb"\u00e9" * 300),
    "UTF-16": f"{{{PASSWORD.decode()}}}".encode("utf-16"),
    "octets": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("raw", NOT_HELD.values(), ids=NOT_HELD)
def test_a_member_that_no_reader_finds_is_not(raw: bytes) -> None:
    assert not found(raw)


@pytest.mark.parametrize("words", [b'"type", "org.matrix.login.jwt"', rb'"\u0074"'])
def test_of_a_text_that_is_not_read_the_words_decide(words: bytes) -> None:
    assert found(b'{"a": [%b], "b": %b' % (words, b"[" * 50))
    assert found(b'{"a": [%b], "b": "%b"' % (words, rb"\\" * 1500))


@given(st.binary() | st.text('{}[]",:\\u0074type \0\xff').map(str.encode))
def test_any_octets_are_judged(raw: bytes) -> None:
    assert found(raw) in {True, False}


@pytest.mark.parametrize(
    ("raw", "value"), [(b'{"a": 1}', {"a": 1}), (b'{"a": 1, "a": 2}', {"a": 2}), ('{"a": "é"}'.encode(), {"a": "é"})]
)
def test_the_last_member_counts_in_a_loose_reading(raw: bytes, value: dict[str, Any]) -> None:
    assert parse_loosely(raw) == value


DEEP = b"[          " * 10_000
NO_OBJECTS = [b"", b"{", b"[]", b"1", b"\xff", b"[" * 10_000, b"{}" * 10_000, DEEP, b'{"a": %b}' % (b"9" * 5000)]


@pytest.mark.parametrize("raw", NO_OBJECTS)
def test_what_is_no_object_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|not a JSON object|too many values"):
        parse_loosely(raw)
