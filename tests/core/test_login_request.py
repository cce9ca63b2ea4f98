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


JWT = '"type": "org.matrix.login.jwt", "token": "t"'
PASSWORD = '"type": "m.login.password"'
DISGUISED = {
    "a member twice": f'{{{JWT}, "a": 1, "a": 2}}',
    "the type twice": f"{{{JWT}, {PASSWORD}}}",
    "the type twice, and ours is the last": f"{{{PASSWORD}, {JWT}}}",
    "nesting": f'{{{JWT}, "a": {"[" * 60}{"]" * 60}}}',
    "many members": f'{{{JWT}, "a": [{"1," * 999} 1]}}',
    "a lone surrogate": f'{{{JWT}, "a": "\\ud800"}}',
    "a huge number": f'{{{JWT}, "a": {"9" * 500}}}',
    "a number out of range": f'{{{JWT}, "a": 1e400}}',
    "no number": f'{{{JWT}, "a": NaN}}',
    "a control character": f'{{{JWT}, "a": "\t"}}',
    "a byte order mark": f"\ufeff{{{JWT}}}",
    "something behind it": f"{{{JWT}}} 1",
    "a name in upper case": f"{{{JWT.replace('type', 'TYPE')}}}",
    "a name in both cases": f"{{{PASSWORD}, {JWT.replace('type', 'Type')}}}",
    "a name in upper case, by an escape": f"{{{PASSWORD}, {JWT.replace('type', chr(92) + 'u0054ype')}}}",
}


@pytest.mark.parametrize("body", DISGUISED.values(), ids=DISGUISED)
@pytest.mark.parametrize("max_password_bytes", [0, 1000])
def test_what_another_reader_could_take_for_a_jwt_login_is_refused(body: str, max_password_bytes: int) -> None:
    with pytest.raises(Refused) as caught:
        parse_login(body.encode(), TYPES, max_password_bytes)
    assert caught.value.refusal is Refusal.BAD_JSON
    assert parse_login(body.replace("org.matrix.login.jwt", "m.login.jwt").encode(), TYPES) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "org.matrix.login.jwt", ',
        b'{"type": "org.matrix.login.jwt",}',
        b'[{"type": "org.matrix.login.jwt"}]',
        b'{"a": {"type": "org.matrix.login.jwt"}, "a": 1}',
        b'{"type": "m.login.password", "password": "type: org.matrix.login.jwt", "a": 1, "a": 2}',
        b'{"type": "m.login.password", "password": "%b"}' % (rb"\u0041" * 10_000),
        b'{"type": "m.login.password", "password": "%b"}' % (b"[" * 10_000),
        b'{"type": "m.login.password", "a": %b}' % (b"[" * 10_000),
    ],
)
def test_what_no_reader_takes_for_one_is_the_homeservers(body: bytes) -> None:
    assert parse_login(body, TYPES) is None
    assert parse_login(body, TYPES, 1000) is None


def test_brackets_in_a_string_are_text() -> None:
    assert parse(initial_device_display_name="[{," * 33, user="\\" + "[" * 999) == LoginRequest("t", None, "[{," * 33)


def test_a_case_of_the_name_beside_our_type_changes_nothing() -> None:
    assert parse(Type="m.login.password", TYPE=7) == LoginRequest("t")


def last_wins(body: bytes) -> object:
    return json.loads(body)


def first_wins(body: bytes) -> object:
    return json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def of_any_case(body: bytes) -> object:
    """Read as Go's decoder of a stream does, and take control characters in strings as some readers do."""
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: {name.casefold(): value for name, value in pairs}, strict=False
    )
    return decoder.raw_decode(body.decode("utf-8", "replace").lstrip(" \t\r\n"))[0]


def strung(text: str) -> st.SearchStrategy[str]:
    """Write a text as a JSON string, some characters as escapes."""
    escaped = st.tuples(*(st.sampled_from([character, f"\\u{ord(character):04x}"]) for character in text))
    return escaped.map(lambda characters: f'"{"".join(characters)}"')


NAMES = st.sampled_from(["type", "type", "Type", "tYPE", "types", "a"]).flatmap(strung)
VALUES = st.sampled_from(["org.matrix.login.jwt", "org.matrix.login.jwt", "m.login.password", "x"]).flatmap(strung)
JUNK = st.sampled_from(
    [
        "1",
        "NaN",
        "1e999",
        "9" * 450,
        '"\\ud800"',
        '"\udc80"',
        '"\t"',
        '"\0"',
        "[" * 50 + "]" * 50,
        "[1" + ",1" * 300 + "]",
    ]
)
MEMBERS = st.lists(st.tuples(NAMES, VALUES | JUNK), max_size=4).map(
    lambda pairs: f"{{{', '.join(f'{name}: {value}' for name, value in pairs)}}}"
)
WRAPPED = st.tuples(
    st.sampled_from(["", "", " ", "\ufeff"]), MEMBERS, st.sampled_from(["", "", "\n", "x", "}", "\0"])
).map("".join)
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-16-be", "utf-32-le"])


@given(WRAPPED, ENCODINGS)
def test_what_any_reader_takes_for_a_jwt_login_never_passes(text: str, encoding: str) -> None:
    # A surrogate that stands for an octet is that octet; in the wider encodings it is itself.
    body = text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "surrogatepass")
    types = []
    for reader in (last_wins, first_wins, of_any_case):
        try:
            fields = reader(body)
        except (ValueError, RecursionError):
            continue
        types.append(fields.get("type") if isinstance(fields, dict) else None)
    try:
        login = parse_login(body, TYPES)
    except Refused as refused:
        assert refused.refusal in {Refusal.BAD_JSON, Refusal.TOKEN_MISSING}
        return
    assert login is None
    assert TYPES[0] not in types


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
