"""How long a body is, as RFC 9112 6.3 says, rule by rule; what has two lengths has none."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.framing import BadFraming, content_length, may_have_body, request_framing, response_framing
from gateway.core.headers import Field, Fields

CHUNKED = (b"Transfer-Encoding", b"chunked")
FIVE = (b"Content-Length", b"5")
OTHER = (b"Content-Type", b"text/plain")


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),  # RFC 9112 6.3, 7
        ([OTHER], 0),
        ([FIVE], 5),
        ([OTHER, (b"content-LENGTH", b"0")], 0),
        ([CHUNKED], None),
        ([(b"TRANSFER-encoding", b"ChUnKeD"), OTHER], None),
    ],
)
def test_a_request_is_as_long_as_its_fields_say(fields: list[Field], length: int | None) -> None:
    assert request_framing(Fields(fields), is_http_1_0=False) == length


TWICE_CODED = {
    "chunked twice on a line": [(b"Transfer-Encoding", b"chunked, chunked")],
    "chunked twice on two lines": [CHUNKED, CHUNKED],
    "compressed and chunked": [(b"Transfer-Encoding", b"gzip, chunked")],
    "compressed and chunked, on two lines": [(b"Transfer-Encoding", b"gzip"), CHUNKED],
    "chunked and compressed": [(b"Transfer-Encoding", b"chunked, gzip")],
    "compressed": [(b"Transfer-Encoding", b"gzip")],
    "identity, which is no coding any more": [(b"Transfer-Encoding", b"identity")],
    "nothing": [(b"Transfer-Encoding", b"")],
    "nothing beside chunked": [(b"Transfer-Encoding", b",chunked")],
    "nothing on another line": [CHUNKED, (b"Transfer-Encoding", b"")],
    "chunked with a parameter": [(b"Transfer-Encoding", b"chunked;a=b")],
    "chunked in quotes": [(b"Transfer-Encoding", b'"chunked"')],
    "chunked with an octet of white space that HTTP has not": [(b"Transfer-Encoding", b"\x0bchunked")],
}


@pytest.mark.parametrize("case", TWICE_CODED)
def test_no_coding_but_chunked_and_that_once_is_understood(case: str) -> None:
    """RFC 9112 6.1, 6.3 (4) and 7."""
    fields = Fields(TWICE_CODED[case])

    with pytest.raises(BadFraming):
        request_framing(fields, is_http_1_0=False)
    with pytest.raises(BadFraming):
        response_framing("GET", 200, fields)


@pytest.mark.parametrize("fields", [[CHUNKED, FIVE], [FIVE, CHUNKED], [(b"Content-Length", b"x"), CHUNKED]])
def test_a_request_with_both_lengths_is_refused(fields: list[Field]) -> None:
    """RFC 9112 6.1 and 6.3 (3): it may be an attempt at smuggling."""
    with pytest.raises(BadFraming):
        request_framing(Fields(fields), is_http_1_0=False)


def test_chunks_are_not_of_http_1_0() -> None:
    """RFC 9112 6.1: the message must be treated as if its framing were faulty."""
    with pytest.raises(BadFraming):
        request_framing(Fields([CHUNKED]), is_http_1_0=True)


def test_a_length_is_of_http_1_0_too() -> None:
    assert request_framing(Fields([FIVE]), is_http_1_0=True) == 5
    assert request_framing(Fields([]), is_http_1_0=True) == 0


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"0", 0),
        (b"000", 0),
        (b"5", 5),
        (b"0005", 5),
        (b"9" * 18, 10**18 - 1),
        (b"0" * 18 + b"9" * 18, 10**18 - 1),
        (b"0" * 20_000, 0),
        (b"0" * 20_000 + b"7", 7),
    ],
)
def test_a_length_is_a_number_with_any_zeros_before_it(value: bytes, length: int) -> None:
    """RFC 9110 8.6: 1*DIGIT."""
    assert content_length(value) == length
    assert request_framing(Fields([(b"Content-Length", value)]), is_http_1_0=False) == length
    assert response_framing("GET", 200, Fields([(b"Content-Length", value)])) == length


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"+5",
        b"-5",
        b"-0",
        b" 5",
        b"5 ",
        b"5\t",
        b"0x5",
        b"5_0",
        b"5.0",
        b"1e3",
        b"5,5",
        b"5, 6",
        b"\xd9\xa5",
        b"\xb2",
    ],
)
def test_what_is_no_number_is_no_length(value: bytes) -> None:
    """RFC 9112 6.3 (5); a list of equal ones may be refused too."""
    with pytest.raises(BadFraming):
        content_length(value)


@pytest.mark.parametrize("value", [b"1" + b"0" * 18, b"18446744073709551615", b"18446744073709551621", b"9" * 5000])
def test_no_body_has_so_many_octets(value: bytes) -> None:
    """RFC 9110 8.6: a recipient must foresee large numbers; one of 2^64 + 5 must not become a 5."""
    for length in (value, b"0" * 30 + value):
        with pytest.raises(BadFraming):
            content_length(length)


@given(st.binary(max_size=40))
def test_any_octets_are_a_length_or_a_bad_framing(value: bytes) -> None:
    try:
        length = content_length(value)
    except BadFraming:
        return
    assert value.isdigit()
    assert 0 <= length == int(value) < 10**18


Framing = int | Literal["close"] | None


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], "close"),  # RFC 9112 6.3 (8)
        ([OTHER], "close"),
        ([FIVE], 5),  # (6)
        ([(b"Content-Length", b"0")], 0),
        ([CHUNKED], None),  # (4)
        (
            [CHUNKED, FIVE],
            None,
        ),  # (3): the coding overrides it
        ([(b"Content-Length", b"x"), CHUNKED], None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("status", [200, 201, 205, 206, 404, 500])
def test_an_answer_is_as_long_as_its_fields_say(
    method: str, status: int, fields: list[Field], length: Framing
) -> None:
    assert response_framing(method, status, Fields(fields)) == length


@pytest.mark.parametrize("fields", [[], [FIVE], [CHUNKED], [CHUNKED, FIVE], [(b"Content-Length", b"x")]])
@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304), ("POST", 100), ("GET", 103), ("GET", 199)],
)
def test_these_answers_have_no_body_whatever_their_fields_say(method: str, status: int, fields: list[Field]) -> None:
    """RFC 9112 6.3 (1)."""
    assert not may_have_body(method, status)
    assert response_framing(method, status, Fields(fields)) == 0


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("GET", 205), ("POST", 304 + 1), ("head", 200)])
def test_any_other_answer_may_have_a_body(method: str, status: int) -> None:
    """RFC 9110 9.1: methods are case-sensitive."""
    assert may_have_body(method, status)


@pytest.mark.parametrize("value", [b"x", b"", b"5,6", b"-1"])
def test_an_answer_with_a_length_that_is_none_is_refused(value: bytes) -> None:
    """RFC 9112 6.3 (5): a proxy answers 502."""
    with pytest.raises(BadFraming):
        response_framing("GET", 200, Fields([(b"Content-Length", value)]))
