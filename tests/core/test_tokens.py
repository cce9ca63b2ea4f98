"""A token passes every check or is refused with the first that fails, and nothing else ever happens."""

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from pydantic import ValidationError

from gateway.core.keys import Key, KeySet, build_key_set
from gateway.core.tokens import TokenRules, Trust, last_valid_moment, verify
from gateway.errors import Refusal, Refused

NOW = 1_800_000_000
SECRET = "the secret of the tests, long enough for HS512: 0123456789abcdef0123456789abcdef"
KEYS = build_key_set("HMAC", [SECRET], ["HS256"])


def encode(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(payload: Any, header: Any = None, secret: str = SECRET) -> str:
    """Sign anything at all, also what no library would."""
    head = {"alg": "HS256"} if header is None else header
    signing_input = f"{encode(head)}.{encode(payload)}"
    algorithm = jws.JWSRegistry.algorithms["HS256"]
    signature = algorithm.sign(signing_input.encode(), OctKey.import_key(secret))
    return f"{signing_input}.{encode(signature)}"


def check(token: str, now: float = NOW, key_set: KeySet = KEYS, **rules: Any) -> dict[str, Any]:
    return verify(token, Trust(key_set, TokenRules(**rules)), now)


def refusal(token: str, now: float = NOW, key_set: KeySet = KEYS, **rules: Any) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        check(token, now, key_set, **rules)
    return caught.value.refusal, caught.value.detail


def test_a_good_token_gives_its_claims() -> None:
    assert check(sign({"sub": "alice"})) == {"sub": "alice"}


PRIVATE: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}
ALGORITHMS = [
    *(("ECDSA", name, name) for name in ("ES256", "ES384", "ES512")),
    *(("RSA", f"{kind}{size}", "RSA") for kind in ("RS", "PS") for size in (256, 384, 512)),
    *(("EDDSA", name, key) for name, key in (("EdDSA", "Ed25519"), ("Ed25519", "Ed25519"), ("Ed448", "Ed448"))),
    ("EDDSA", "EdDSA", "Ed448"),
]


def public_pem(name: str) -> str:
    pem: bytes = PRIVATE[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


@pytest.mark.parametrize(("key_format", "algorithm", "name"), ALGORITHMS)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_every_asymmetric_algorithm_verifies_what_it_signed(key_format: Any, algorithm: str, name: str) -> None:
    pem = PRIVATE[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kinds: dict[str, Any] = {"ECDSA": ECKey, "RSA": RSAKey, "EDDSA": OKPKey}
    key: Key = kinds[key_format].import_key(pem)
    token = jws.serialize_compact({"alg": algorithm}, b'{"sub": "alice"}', key, algorithms=[algorithm])
    key_set = build_key_set(key_format, [public_pem(name)], [algorithm])

    assert check(token, key_set=key_set) == {"sub": "alice"}
    broken = token.rpartition(".")[0] + "." + encode(b"\0" * 64)
    with pytest.raises(Refused) as caught:
        check(broken, key_set=key_set)
    assert caught.value.refusal is Refusal.BAD_SIGNATURE


def test_any_secret_of_a_list_verifies() -> None:
    other = SECRET[::-1]
    key_set = build_key_set("HMAC", [SECRET, other], ["HS256"])

    assert check(sign({"sub": "a"}, secret=other), key_set=key_set) == {"sub": "a"}


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS384", "RS256", "hs256"])
def test_an_algorithm_that_is_not_listed_is_refused(name: str) -> None:
    assert refusal(sign({"sub": "a"}, {"alg": name})) == (Refusal.UNSUPPORTED_ALGORITHM, name)


@pytest.mark.parametrize("header", [{}, {"alg": None}, {"alg": ["HS256"]}, {"alg": {"a": 1}}])
def test_a_header_without_an_algorithm_is_refused(header: dict[str, Any]) -> None:
    assert refusal(sign({"sub": "a"}, header)) == (Refusal.UNSUPPORTED_ALGORITHM, "no 'alg' in the header")


@pytest.mark.parametrize("rest", ["!.AA", "AA.!", "AA.A", "A.AA"])
def test_the_form_of_all_parts_comes_before_the_algorithm(rest: str) -> None:
    token = f"{encode({'alg': 'none'})}.{rest}"

    assert refusal(token) == (Refusal.UNDECODABLE, "a part of the token is not base64url")


def test_a_public_key_is_never_taken_for_an_hmac_secret() -> None:
    pem = public_pem("RSA")
    key_set = build_key_set("RSA", [pem], ["RS256"])
    signing_input = f"{encode({'alg': 'HS256'})}.{encode({'sub': 'a'})}"
    forged = hmac.digest(pem.encode(), signing_input.encode(), "sha256")

    assert refusal(f"{signing_input}.{encode(forged)}", key_set=key_set) == (Refusal.UNSUPPORTED_ALGORITHM, "HS256")


@pytest.mark.parametrize(("name", "size"), [("ES256", 64), ("ES384", 96), ("ES512", 132)])
@pytest.mark.parametrize("octet", [b"\0", b"\xff"])
def test_an_ecdsa_signature_of_numbers_off_the_curve_does_not_verify(name: str, size: int, octet: bytes) -> None:
    key_set = build_key_set("ECDSA", [public_pem(name)], [name])
    token = f"{encode({'alg': name})}.{encode({'sub': 'a'})}.{encode(octet * size)}"

    assert refusal(token, key_set=key_set) == (Refusal.BAD_SIGNATURE, "")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": True}])
def test_nothing_critical_is_understood(header: dict[str, Any]) -> None:
    assert refusal(sign({"sub": "a"}, {"alg": "HS256", **header}))[0] is Refusal.UNDECODABLE


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jku": "https://evil.example/set"},
        {"x5u": "https://evil.example/c"},
        {"x5c": ["AAAA"]},
    ],
)
def test_keys_in_the_header_are_never_looked_at(extra: dict[str, Any]) -> None:
    assert check(sign({"sub": "a"}, {"alg": "HS256", **extra})) == {"sub": "a"}
    assert refusal(sign({"sub": "a"}, {"alg": "HS256", **extra}, secret="A" * 40))[0] is Refusal.BAD_SIGNATURE


def test_a_long_header_and_a_long_payload_are_read() -> None:
    assert check(sign({"sub": "a", "x": "y" * 9000}, {"alg": "HS256", "kid": "k" * 2000}))["sub"] == "a"


def test_a_token_is_read_up_to_its_last_allowed_byte() -> None:
    token = sign({"sub": "a", "x": "y" * 9000})

    assert check(token, max_token_bytes=len(token))["sub"] == "a"
    assert refusal(token, max_token_bytes=len(token) - 1)[0] is Refusal.UNDECODABLE


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_hmac_algorithm_verifies_what_it_signed(algorithm: str) -> None:
    key_set = build_key_set("HMAC", [SECRET], [algorithm])
    token = jws.serialize_compact({"alg": algorithm}, b'{"sub": "a"}', OctKey.import_key(SECRET), [algorithm])

    assert check(token, key_set=key_set) == {"sub": "a"}
    assert refusal(token[:-6] + "AAAAAA", key_set=key_set) == (Refusal.BAD_SIGNATURE, "")


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "three parts"),
        ("a.b", "three parts"),
        ("a.b.c.d", "three parts"),
        ("a.b.c.d.e", "encrypted"),
        ("é.b.c", "base64url"),
        ("a.b.c", "base64url"),
        (sign({"sub": "a"}) + "=", "base64url"),
        (sign({"sub": "a"}) + "\n", "base64url"),
        (" " + sign({"sub": "a"}), "base64url"),
        (sign({"sub": "a"})[:-1] + "B", "base64url"),
        (sign({"sub": "a"}, ["alg"]), "header: not a JSON object"),
        (sign({"sub": "a"}, b'{"alg": "HS256", "alg": "none"}'), "header: a member appears twice"),
        (sign(["sub"]), "payload: not a JSON object"),
        (sign(b'{"sub": "a", "sub": "b"}'), "payload: a member appears twice"),
        (sign(b'{"sub": "a", "exp": NaN}'), "NaN"),
        (sign(b"not json"), "not JSON"),
        (sign(b'{"sub": "\\ud800"}'), "surrogate"),
        (sign({"sub": "a"}, b'{"alg": "HS256", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}"), "nested too deeply"),
        ("\ud800.b.c", "base64url"),
        (sign(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"), "nested too deeply"),
        (sign({"sub": "a" * 20_000}), "larger than 16384 bytes"),
    ],
)
def test_what_cannot_be_read_says_why(token: str, why: str) -> None:
    kind, detail = refusal(token)

    assert kind is Refusal.UNDECODABLE
    assert why in detail


BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.text(BASE64URL, max_size=9) | st.text(max_size=4) | st.text(BASE64URL + "+/=\n ", max_size=6))
def test_a_signature_has_one_spelling(text: str) -> None:
    try:
        good = encode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) == text
    except ValueError:
        good = False
    kind, _ = refusal(f"{encode({'alg': 'HS256'})}.{encode({'sub': 'a'})}.{text}")

    assert kind is (Refusal.BAD_SIGNATURE if good else Refusal.UNDECODABLE)


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
        ({"exp": NOW - 60}, {"leeway": 2**53}, None),
        ({"exp": 1.5e9, "iat": 1.0e9}, {"leeway": 2**53, "max_token_age": 2**53}, None),
    ],
)
def test_each_rule_decides_at_its_edge(
    claims: dict[str, Any], rules: dict[str, Any], expected: tuple[Refusal, str] | None
) -> None:
    token = sign({"sub": "a", **claims})

    if expected is None:
        assert check(token, **rules)["sub"] == "a"
    else:
        assert refusal(token, **rules) == expected


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", [b"1e400", b"-1e400", b"9007199254740993", b"1" + b"0" * 350, b"true", b'"5"', b"null", b"[]", b"{}"]
)
def test_a_date_that_is_no_finite_number_is_refused(name: str, value: bytes) -> None:
    token = sign(b'{"sub": "a", "%b": %b}' % (name.encode(), value))

    assert refusal(token) == (Refusal.CLAIM_INVALID, name)


@pytest.mark.parametrize(
    ("typ", "accepted"),
    [("at+jwt", True), ("AT+JWT", True), ("application/at+jwt", True), ("JWT", False), (None, False), (1, False)],
)
def test_the_type_of_the_token_is_demanded_where_configured(typ: object, *, accepted: bool) -> None:
    token = sign({"sub": "a"}, {"alg": "HS256"} if typ is None else {"alg": "HS256", "typ": typ})
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
    token = f"{encode({'alg': 'none'})}.{encode({'sub': 'a'})}."

    assert refusal(token)[0] is Refusal.UNSUPPORTED_ALGORITHM
    assert check(token, validate_signature=False) == {"sub": "a"}


def test_an_empty_list_of_algorithms_allows_none() -> None:
    assert refusal(sign({"sub": "a"}), key_set=KeySet((), frozenset()))[0] is Refusal.UNSUPPORTED_ALGORITHM


def test_an_algorithm_without_a_key_is_said_so() -> None:
    assert refusal(sign({"sub": "a"}), key_set=KeySet((), frozenset({"HS256"}))) == (
        Refusal.NO_KEY,
        "no key for HS256",
    )


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}"))
def test_any_text_is_refused_and_nothing_else(token: str) -> None:
    with pytest.raises(Refused) as caught:
        check(token)
    assert caught.value.status == 403


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
        check(sign(claims, {**header, "alg": "HS256"}), issuer=["a"], single_use=True, token_type="JWT")
    except Refused as refused:
        assert refused.status == 403
