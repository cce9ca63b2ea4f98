"""A token passes every check or is refused with the first that fails, and nothing else ever happens."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.core.keys import build_key_set
from gateway.core.tokens import TokenRules, Trust, choose_issuer, last_valid_moment, verify
from gateway.errors import Refusal, Refused
from tests.signing import SECRET, encode, sign_json

NOW = 1_800_000_000
KEYS = build_key_set("HMAC", [SECRET], ["HS256"])


def check(token: str, **rules: Any) -> dict[str, Any]:
    return verify(token, Trust(KEYS, TokenRules(**rules)), NOW)


def refusal(token: str, **rules: Any) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        check(token, **rules)
    return caught.value.refusal, caught.value.detail


def test_a_good_token_gives_its_claims() -> None:
    assert check(sign_json({"sub": "alice"})) == {"sub": "alice"}


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (["sub"], "payload: not a JSON object"),
        (b'{"sub": "a", "sub": "b"}', "payload: a member appears twice"),
        (b'{"sub": "a", "exp": NaN}', "NaN"),
        (b"not json", "not JSON"),
        (b'{"sub": "\\ud800"}', "surrogate"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    ],
)
def test_a_payload_that_can_not_be_read_says_why(payload: Any, why: str) -> None:
    kind, detail = refusal(sign_json(payload))

    assert kind is Refusal.UNDECODABLE
    assert why in detail


MANY = {"groups": [f"group {number}" for number in range(2000)], "roles": [[number] for number in range(200)]}


def test_a_user_with_thousands_of_groups_logs_in_at_one_issuer_of_several() -> None:
    token = sign_json({"iss": "us", "sub": "alice", **MANY})

    assert choose_issuer(token, {"us": 1, "them": 2}) == 1
    assert check(token, issuer="us", max_token_bytes=2**17)["groups"] == MANY["groups"]


@pytest.mark.parametrize("beside", [{}, MANY])
@pytest.mark.parametrize(
    ("iss", "kind"),
    [
        ({}, Refusal.CLAIM_MISSING),
        ({"iss": ["us"]}, Refusal.CLAIM_INVALID),
        ({"iss": "them"}, Refusal.NO_KEY),
        ({"iss": "\ud800"}, None),
    ],
)
def test_a_token_of_nobody_known_chooses_no_issuer(
    beside: dict[str, Any], iss: dict[str, Any], kind: Refusal | None
) -> None:
    with pytest.raises(Refused) as caught:
        choose_issuer(sign_json({**iss, **beside}), {"us": 1})
    assert caught.value.refusal is (kind or (Refusal.NO_KEY if beside else Refusal.UNDECODABLE))


@pytest.mark.parametrize(
    "payload", [b"[" * 5000, b'{"a": [' + b"[]," * 5000, b"[1" + b",1" * 500 + b"]", b'{"iss": "us", "iss": "us"}']
)
def test_claims_that_can_not_be_read_choose_no_issuer(payload: bytes) -> None:
    with pytest.raises(Refused, match="payload: ") as caught:
        choose_issuer(sign_json(payload), {"us": 1})
    assert caught.value.refusal is Refusal.UNDECODABLE


def test_claims_that_chose_an_issuer_are_read_strictly_all_the_same() -> None:
    payload = json.dumps({"iss": "us", "sub": "alice", **MANY}).replace("{", '{"sub": "admin", ', 1)
    token = sign_json(payload.encode())

    assert choose_issuer(token, {"us": 1}) == 1
    kind, detail = refusal(token, issuer="us", max_token_bytes=2**17)
    assert (kind, detail) == (Refusal.UNDECODABLE, "payload: a member appears twice")


@pytest.mark.parametrize(
    ("claims", "rules", "expected"),
    [
        ({"exp": NOW + 1}, {}, None),
        ({"exp": NOW - 59}, {}, None),
        ({"exp": NOW - 60}, {}, (Refusal.EXPIRED, "")),
        ({"exp": NOW - 60.5}, {"leeway": 61}, None),
        ({"exp": NOW - 600}, {"validate_exp": False}, None),
        ({}, {"require_exp": True}, (Refusal.CLAIM_MISSING, "exp")),
        ({"nbf": NOW + 60}, {}, None),
        ({"nbf": NOW + 61}, {}, (Refusal.NOT_YET_VALID, "")),
        ({"nbf": NOW + 600}, {"validate_nbf": False}, None),
        ({}, {"require_nbf": True}, (Refusal.CLAIM_MISSING, "nbf")),
        ({"iat": NOW + 60}, {}, None),
        ({"iat": NOW + 61}, {}, (Refusal.ISSUED_IN_FUTURE, "")),
        ({"iat": NOW - 100}, {"max_token_age": 40}, None),
        ({"iat": NOW - 101}, {"max_token_age": 40}, (Refusal.EXPIRED, "")),
        ({"iat": NOW - 101, "exp": NOW + 900}, {"max_token_age": 40}, (Refusal.EXPIRED, "")),
        ({"iat": "now"}, {"max_token_age": 40}, (Refusal.CLAIM_INVALID, "iat")),
        ({}, {"max_token_age": 40}, (Refusal.CLAIM_MISSING, "iat")),
        ({"aud": "a"}, {}, (Refusal.CLAIM_INVALID, "aud")),
        ({"aud": []}, {}, (Refusal.CLAIM_INVALID, "aud")),
        ({"aud": "a"}, {"audience": ["b", "a"]}, None),
        ({"aud": ["x", "a"]}, {"audience": ["a"]}, None),
        ({"aud": ["x", 1]}, {"audience": ["x"]}, (Refusal.CLAIM_INVALID, "aud")),
        ({"aud": "A"}, {"audience": ["a"]}, (Refusal.CLAIM_INVALID, "aud")),
        ({}, {"audience": ["a"]}, (Refusal.CLAIM_MISSING, "aud")),
        ({"iss": "anything"}, {}, None),
        ({"iss": "a"}, {"issuer": ["a", "b"]}, None),
        ({"iss": "a/"}, {"issuer": ["a"]}, (Refusal.CLAIM_INVALID, "iss")),
        ({"iss": ["a"]}, {"issuer": ["a"]}, (Refusal.CLAIM_INVALID, "iss")),
        ({}, {"issuer": ["a"]}, (Refusal.CLAIM_MISSING, "iss")),
        ({"jti": "1"}, {"single_use": True}, None),
        ({}, {"single_use": True}, (Refusal.CLAIM_MISSING, "jti")),
        ({"jti": 1}, {"single_use": True}, (Refusal.CLAIM_INVALID, "jti")),
        ({"jti": ""}, {"single_use": True}, (Refusal.CLAIM_INVALID, "jti")),
        ({"jti": "a\0"}, {"single_use": True}, (Refusal.CLAIM_INVALID, "jti")),
        ({"jti": "a" * 1000}, {"single_use": True}, None),
        ({"jti": "a" * 1001}, {"single_use": True}, (Refusal.CLAIM_INVALID, "jti")),
        ({"exp": NOW - 60}, {"leeway": 2**53}, None),
        ({"exp": 1.5e9, "iat": 1.0e9}, {"leeway": 2**53, "max_token_age": 2**53}, None),
    ],
)
def test_each_rule_decides_at_its_edge(
    claims: dict[str, Any], rules: dict[str, Any], expected: tuple[Refusal, str] | None
) -> None:
    token = sign_json({"sub": "a", **claims})

    if expected is None:
        assert check(token, **rules)["sub"] == "a"
    else:
        assert refusal(token, **rules) == expected


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", [b"1e400", b"-1e400", b"9007199254740993", b"1" + b"0" * 350, b"true", b'"5"', b"null", b"[]", b"{}"]
)
def test_a_date_that_is_no_finite_number_is_refused(name: str, value: bytes) -> None:
    token = sign_json(b'{"sub": "a", "%b": %b}' % (name.encode(), value))

    assert refusal(token) == (Refusal.CLAIM_INVALID, name)


@pytest.mark.parametrize(
    ("typ", "accepted"),
    [("at+jwt", True), ("AT+JWT", True), ("application/at+jwt", True), ("JWT", False), (None, False), (1, False)],
)
def test_the_type_of_the_token_is_demanded_where_configured(typ: object, *, accepted: bool) -> None:
    token = sign_json({"sub": "a"}, {"alg": "HS256"} if typ is None else {"alg": "HS256", "typ": typ})
    if accepted:
        assert check(token, token_type="at+jwt") == {"sub": "a"}
    else:
        assert refusal(token, token_type="at+jwt")[0] in {Refusal.CLAIM_INVALID, Refusal.UNDECODABLE}


@pytest.mark.parametrize(
    ("claims", "rules", "moment"),
    [
        ({}, {}, None),
        ({"exp": 100}, {}, 160),
        ({"exp": 100}, {"validate_exp": False}, None),
        ({"exp": 100, "iat": 10}, {"max_token_age": 20}, 90),
        ({"exp": 20, "iat": 10}, {"max_token_age": 20}, 80),
        ({"iat": 10}, {"max_token_age": 20, "leeway": 0}, 30),
    ],
)
def test_a_used_token_is_remembered_as_long_as_it_could_be_used(
    claims: dict[str, Any], rules: dict[str, Any], moment: float | None
) -> None:
    assert last_valid_moment(claims, TokenRules(**rules)) == moment


@pytest.mark.parametrize("name", ["leeway", "max_token_age"])
@pytest.mark.parametrize("value", [-1, 10**400, 1.5, True, "60"])
def test_times_that_no_clock_has_are_no_rules(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        TokenRules.model_validate({name: value})


def test_an_unsigned_token_is_believed_only_where_signatures_are_off() -> None:
    token = f"{encode(json.dumps({'alg': 'none'}).encode())}.{encode(json.dumps({'sub': 'a'}).encode())}."

    assert refusal(token)[0] is Refusal.UNSUPPORTED_ALGORITHM
    assert check(token, validate_signature=False) == {"sub": "a"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**390) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x5c", "jku", "cty"]), JSON),
    st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "jti"]), JSON),
)
def test_any_signed_json_gives_claims_or_a_refusal(header: dict[str, Any], claims: dict[str, Any]) -> None:
    try:
        check(sign_json(claims, {**header, "alg": "HS256"}), issuer=["a"], single_use=True, token_type="JWT")
    except Refused as refused:
        assert refused.status == 403
