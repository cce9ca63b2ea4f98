"""A login body is ours, the homeserver's, or refused with the field's name."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.login_request import LoginRequest, PastedToken, check_names, parse_login
from gateway.errors import Refusal, Refused

TYPES = ["org.matrix.login.jwt"]


def parse(**fields: Any) -> LoginRequest | PastedToken | None:
    return parse_login(json.dumps({"type": TYPES[0], "token": "t", **fields}).encode(), TYPES)


def test_all_fields_are_read_and_others_ignored() -> None:
    assert parse(
        device_id="D", initial_device_display_name="Phone", refresh_token=True, identifier={"user": "x"}, user="y"
    ) == LoginRequest("t", "D", "Phone", refresh_token=True)


def test_a_token_stands_in_no_text_about_its_login() -> None:
    assert "a secret" not in repr(parse(token="a secret"))


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


def jose(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


FORM = f"{jose({'alg': 'HS256'})}.{jose({'sub': 'alice'})}.AAAA"
BY_NAME: dict[str, Any] = {"identifier": {"type": "m.id.user", "user": "alice"}}


def paste(password: object = FORM, *, size: int = 1000, **fields: Any) -> LoginRequest | PastedToken | None:
    body = {"type": "m.login.password", "password": password, **(fields or BY_NAME)}
    return parse_login(json.dumps(body).encode(), TYPES, size)


def test_a_password_of_the_form_of_a_token_may_be_one() -> None:
    pasted = paste(**BY_NAME, device_id="D", initial_device_display_name="Phone", refresh_token=True)

    assert isinstance(pasted, PastedToken)
    assert pasted.request() == LoginRequest(FORM, "D", "Phone", refresh_token=True, names=("alice",))
    assert FORM not in repr(pasted)


def test_what_a_paste_brings_with_it_is_left_out() -> None:
    pasted = paste(f" {FORM}\r\n")

    assert isinstance(pasted, PastedToken)
    assert pasted.token == FORM


@pytest.mark.parametrize(
    "password",
    [
        None,
        7,
        [FORM],
        "",
        "secret word",
        "..",
        "a.b.c",
        "eyJhbGciOiJIUzI1NiJ9",
        FORM + ".AAAA.AAAA",
        FORM + "=",
        FORM.replace(".", ". "),
        FORM.replace(jose({"alg": "HS256"}), jose({"typ": "JWT"})),
        FORM.replace(jose({"alg": "HS256"}), jose({"alg": 1})),
        FORM.replace(jose({"alg": "HS256"}), jose({"alg": "HS256", "crit": ["x"]})),
        FORM.replace(jose({"alg": "HS256"}), jose(["alg"])),
        "\ud800" + FORM,
        "é" + FORM,
    ],
)
def test_any_other_password_is_the_homeservers(password: object) -> None:
    assert paste(password) is None


def test_a_password_that_is_too_large_for_a_token_is_the_homeservers() -> None:
    assert paste(size=len(FORM)) is not None
    assert paste(size=len(FORM) - 1) is None
    assert paste(size=0) is None


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"identifier": {"type": "m.id.user", "user": "@a:b"}}, ("@a:b",)),
        ({"user": "alice"}, ("alice",)),
        ({"user": "bob", **BY_NAME}, ("bob", "alice")),
        ({"user": None, **BY_NAME}, ("alice",)),
        ({"user": "alice", "identifier": None}, ("alice",)),
    ],
)
def test_the_names_are_those_of_the_identifier_and_of_the_older_way(
    fields: dict[str, Any], names: tuple[str, ...]
) -> None:
    pasted = paste(**fields)

    assert isinstance(pasted, PastedToken)
    assert pasted.names == names


@pytest.mark.parametrize(
    "fields",
    [
        {"x": 1},
        {"user": 7},
        {"user": 7, **BY_NAME},
        {"identifier": "alice"},
        {"identifier": {"user": "alice"}},
        {"identifier": {"type": "m.id.user"}},
        {"identifier": {"type": "m.id.user", "user": ["alice"]}},
        {"identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}},
        {"identifier": {"type": "m.id.phone", "country": "DE", "phone": "1"}},
        {"identifier": {"type": "m.id.thirdparty"}, "user": "alice"},
        {"medium": "email", "address": "a@b"},
    ],
)
def test_a_login_that_goes_by_another_thing_than_a_name_is_the_homeservers(fields: dict[str, Any]) -> None:
    assert paste(**fields) is None


@pytest.mark.parametrize("name", ["device_id", "initial_device_display_name", "refresh_token"])
def test_a_wrong_field_is_refused_only_once_the_login_is_ours(name: str) -> None:
    wrong: dict[str, Any] = {name: 7}
    pasted = paste(**BY_NAME, **wrong)

    assert isinstance(pasted, PastedToken)
    with pytest.raises(Refused, match=f"'{name}' must be"):
        pasted.request()


@pytest.mark.parametrize("name", ["alice", "Alice", "@alice:example.org", "@ALICE:Example.Org"])
def test_a_name_of_the_user_in_any_case_fits(name: str) -> None:
    check_names(LoginRequest("t", names=(name, "alice")), "@alice:example.org")
    check_names(LoginRequest("t", names=(name,)), "@alice:Example.org")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "@",
        "bob",
        "alic",
        "alice ",
        "@alice",
        "@alice:",
        "alice:example.org",
        "@alice:example.org:1",
        "@alice:example.com",
        "@@alice:example.org",
        "@alice:@alice:example.org",
        "al\u0131ce",
        "al\u0130ce",
        "\uff41lice",
        "alice\0",
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    for names in ((name,), (name, "alice"), ("alice", name)):
        with pytest.raises(Refused) as caught:
            check_names(LoginRequest("t", names=names), "@alice:example.org")
        assert caught.value.refusal is Refusal.IDENTITY_REFUSED


@given(st.text())
def test_any_name_fits_or_is_refused(name: str) -> None:
    try:
        check_names(LoginRequest("t", names=(name,)), "@k:example.org")
    except Refused:
        return
    assert name in {"k", "K", "@k:example.org"} or name.lower() == "@k:example.org"


@given(st.text() | st.from_regex(r"eyJ[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}"))
def test_any_password_is_the_homeservers_or_may_be_a_token(password: str) -> None:
    assert paste(password) is None or password.count(".") == 2
