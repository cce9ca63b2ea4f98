"""JSON has one meaning or none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.strict_json import MAX_DEPTH, is_small, parse_object, parse_small_object


def test_an_object_is_read() -> None:
    assert parse_object('{"a": [1, 2.5, "é", null, true, {}]}'.encode()) == {"a": [1, 2.5, "é", None, True, {}]}


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    inner = MAX_DEPTH - 1
    raw = b'{"a": ' + b"[" * inner + b'"\\u0061[[[{{{"' + b"]" * inner + b"}"

    assert str(parse_object(raw)).count("[") == inner + 3


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"\xff", "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested too deeply"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested too deeply"),
    ],
)
def test_what_has_no_single_meaning_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_object(raw)


@given(st.binary() | st.text().map(str.encode))
def test_any_octets_give_an_object_or_a_value_error(raw: bytes) -> None:
    try:
        assert isinstance(parse_object(raw), dict)
    except ValueError as error:
        assert len(str(error)) < 100


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=5))
def test_what_json_writes_is_read_the_same(value: dict[str, object]) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=False).encode()) == value


JSON = st.recursive(
    st.integers() | st.text("a[{\ud800\\u", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(JSON, st.integers(0, MAX_DEPTH + 2))
def test_depth_and_surrogates_alone_decide_about_what_json_writes(inner: object, more: int) -> None:
    value: object = {"a": inner}
    for _ in range(more):
        value = {"a": value}
    text = json.dumps(value)
    good = depth(value) <= MAX_DEPTH and "\\ud" not in text.replace("\\\\", "")
    try:
        assert (parse_object(text.encode()) == value) is good
    except ValueError:
        assert not good


@given(JSON)
def test_a_small_text_is_read_as_any_other(inner: object) -> None:
    raw = json.dumps({"a": inner}).encode()
    try:
        expected: object = parse_object(raw)
    except ValueError as error:
        expected = str(error)
    try:
        assert parse_small_object(raw) == expected
    except ValueError as error:
        assert expected in (str(error), "nested too deeply")


TEXT = b'{"a": "%b"}'
SMALL = {
    "an object for each level": b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
    "as many arrays": b'{"a": [' + b"[]," * (MAX_DEPTH - 2) + b"1]}",
    "brackets in a string": TEXT % (b"[{" * 10_000),
    "commas in a string": TEXT % (b"," * 10_000),
    "brackets behind a quote in a string": TEXT % (b'\\"' + b"[" * 10_000),
    "brackets behind a backslash in a string": TEXT % (rb"\\\"" + b"[" * 10_000 + rb"\\"),
    "brackets in a name": b'{"' + b"[" * 10_000 + b'": 1}',
    "quotes in a string": TEXT % (rb"\"" * 10_000),
    "escapes in a string": TEXT % (rb"\u0041" * 10_000),
    "white space": b" " * 10_000 + b"{}",
}


@pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
def test_a_text_with_few_values_is_small_whatever_its_strings_hold(raw: bytes) -> None:
    assert parse_small_object(raw) == json.loads(raw)


LARGE = {
    "brackets": b'{"a": ' + b"[" * 10_000,
    "empty arrays": b'{"a": [' + b"[]," * (MAX_DEPTH - 1) + b"1]}",
    "numbers": b'{"a": [' + b"1," * 300 + b"1]}",
    "members": b"{" + b",".join(b'"%d": 1' % number for number in range(300)) + b"}",
    "brackets behind a string that ends": TEXT % b"" + b"[" * 10_000,
    "brackets behind a backslash and the end of a string": rb'{"a": "\\", "b": ' + b"[" * 10_000,
    "brackets and more quotes than are told apart": TEXT % (b"[" * 50 + rb"\"" * 1000),
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=LARGE)
def test_a_text_with_many_values_is_refused_unread(raw: bytes) -> None:
    assert not is_small(raw)
    with pytest.raises(ValueError, match="nested too deeply, or too many values"):
        parse_small_object(raw)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 300 + "e99", "0." + "9" * 500 + "e400"])
def test_a_number_that_some_readers_cannot_hold_is_refused_where_asked(number: str) -> None:
    raw = b'{"a": [%b]}' % number.encode()

    assert parse_object(raw) == parse_small_object(raw) == json.loads(raw)
    with pytest.raises(ValueError, match="out of range"):
        parse_small_object(raw, finite=True)


@given(st.text('[{,"\\a', max_size=40).map(lambda text: text.replace("\\", "\\\\").replace('"', '\\"')))
def test_what_is_in_a_string_is_not_counted(text: str) -> None:
    raw = b'{"a": "%b%b"}' % (text.encode(), b"[" * 50)

    assert is_small(raw)
    assert json.loads(raw)["a"].endswith("[" * 50)
