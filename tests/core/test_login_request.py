"""A login body is ours, the homeserver's, or refused with the field's name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.login_request import LoginRequest, parse_login
from gateway.errors import Refusal, Refused

TYPES = ["org.matrix.login.jwt"]


def parse(**fields: Any) -> LoginRequest | None:
    return parse_login(json.dumps({"type": TYPES[0], "token": "t", **fields}).encode(), TYPES)


def test_all_fields_are_read_and_others_ignored() -> None:
    assert parse(
        device_id="D", initial_device_display_name="Phone", refresh_token=True, identifier={"user": "x"}, user="y"
    ) == LoginRequest("t", "D", "Phone", refresh_token=True)


def test_absent_and_null_fields_are_none() -> None:
    assert parse(device_id=None, initial_device_display_name=None, refresh_token=None) == LoginRequest("t")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"type": 1}', b'{"type": "m.login.password"}', b'{"type": ["org.matrix.login.jwt"]}'],
)
def test_what_is_no_jwt_login_is_the_homeservers(body: bytes) -> None:
    assert parse_login(body, TYPES) is None


@pytest.mark.parametrize("token", [None, 1, True, [], {}])
def test_a_token_that_is_no_text_is_missing(token: object) -> None:
    with pytest.raises(Refused) as caught:
        parse(token=token)
    assert caught.value.refusal is Refusal.TOKEN_MISSING


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("device_id", "é" * 127),
        ("device_id", "x" * 255),
        ("initial_device_display_name", ""),
        ("refresh_token", False),
    ],
)
def test_values_at_the_edge_are_taken(name: str, good: object) -> None:
    request = parse(**{name: good})

    assert getattr(request, name) == good


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("device_id", ""),
        ("device_id", "é" * 128),
        ("device_id", "a\x7f"),
        ("device_id", "a\x85"),
        ("device_id", 1),
        ("initial_device_display_name", "x" * 101),
        ("initial_device_display_name", ["x"]),
        ("refresh_token", 1),
        ("refresh_token", "true"),
    ],
)
def test_values_beyond_it_are_refused_by_name(name: str, bad: object) -> None:
    with pytest.raises(Refused, match=f"'{name}' must be") as caught:
        parse(**{name: bad})
    assert caught.value.refusal is Refusal.BAD_PARAMETER


@given(st.binary() | st.text().map(str.encode))
def test_any_octets_are_ours_or_not_or_refused(body: bytes) -> None:
    try:
        parse_login(body, TYPES)
    except Refused as refused:
        assert refused.status in {400, 403}
