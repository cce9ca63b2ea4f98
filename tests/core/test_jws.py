"""A compact JWS is verified with a key and an algorithm of the configuration, or refused with the reason."""

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

from gateway.core.jws import read_header, verify_signature
from gateway.core.keys import Key, KeySet, build_key_set
from gateway.errors import Refusal, Refused
from tests.signing import SECRET, encode, sign_json

KEYS = build_key_set("HMAC", [SECRET], ["HS256"])


def part(value: Any) -> str:
    return encode(json.dumps(value).encode())


def check(token: str, key_set: KeySet = KEYS, max_bytes: int = 16384) -> Any:
    """The verified payload."""
    return json.loads(verify_signature(token, read_header(token, max_bytes), key_set))


def refusal(token: str, key_set: KeySet = KEYS, max_bytes: int = 16384) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        check(token, key_set, max_bytes)
    return caught.value.refusal, caught.value.detail


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

    assert check(sign_json({"sub": "a"}, secret=other), key_set=key_set) == {"sub": "a"}


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS384", "RS256", "hs256"])
def test_an_algorithm_that_is_not_listed_is_refused(name: str) -> None:
    assert refusal(sign_json({"sub": "a"}, {"alg": name})) == (Refusal.UNSUPPORTED_ALGORITHM, name)


@pytest.mark.parametrize("header", [{}, {"alg": None}, {"alg": ["HS256"]}, {"alg": {"a": 1}}])
def test_a_header_without_an_algorithm_is_refused(header: dict[str, Any]) -> None:
    assert refusal(sign_json({"sub": "a"}, header)) == (Refusal.UNSUPPORTED_ALGORITHM, "no 'alg' in the header")


@pytest.mark.parametrize("rest", ["!.AA", "AA.!", "AA.A", "A.AA"])
def test_the_form_of_all_parts_comes_before_the_algorithm(rest: str) -> None:
    token = f"{part({'alg': 'none'})}.{rest}"

    assert refusal(token) == (Refusal.UNDECODABLE, "a part of the token is not base64url")


def test_a_public_key_is_never_taken_for_an_hmac_secret() -> None:
    pem = public_pem("RSA")
    key_set = build_key_set("RSA", [pem], ["RS256"])
    signing_input = f"{part({'alg': 'HS256'})}.{part({'sub': 'a'})}"
    forged = hmac.digest(pem.encode(), signing_input.encode(), "sha256")

    assert refusal(f"{signing_input}.{encode(forged)}", key_set=key_set) == (Refusal.UNSUPPORTED_ALGORITHM, "HS256")


@pytest.mark.parametrize(("name", "size"), [("ES256", 64), ("ES384", 96), ("ES512", 132)])
@pytest.mark.parametrize("octet", [b"\0", b"\xff"])
def test_an_ecdsa_signature_of_numbers_off_the_curve_does_not_verify(name: str, size: int, octet: bytes) -> None:
    key_set = build_key_set("ECDSA", [public_pem(name)], [name])
    token = f"{part({'alg': name})}.{part({'sub': 'a'})}.{encode(octet * size)}"

    assert refusal(token, key_set=key_set) == (Refusal.BAD_SIGNATURE, "")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": True}])
def test_nothing_critical_is_understood(header: dict[str, Any]) -> None:
    assert refusal(sign_json({"sub": "a"}, {"alg": "HS256", **header}))[0] is Refusal.UNDECODABLE


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
    assert check(sign_json({"sub": "a"}, {"alg": "HS256", **extra})) == {"sub": "a"}
    assert refusal(sign_json({"sub": "a"}, {"alg": "HS256", **extra}, secret="A" * 40))[0] is Refusal.BAD_SIGNATURE


def test_a_long_header_and_a_long_payload_are_read() -> None:
    assert check(sign_json({"sub": "a", "x": "y" * 9000}, {"alg": "HS256", "kid": "k" * 2000}))["sub"] == "a"


def test_a_header_with_a_chain_of_certificates_is_read() -> None:
    header = {"alg": "HS256", "x5c": ["MII" + "A" * 900] * 8, "x": "[{," * 100}

    assert check(sign_json({"sub": "a"}, header))["sub"] == "a"


def test_a_token_is_read_up_to_its_last_allowed_byte() -> None:
    token = sign_json({"sub": "a", "x": "y" * 9000})

    assert check(token, max_bytes=len(token))["sub"] == "a"
    assert refusal(token, max_bytes=len(token) - 1)[0] is Refusal.UNDECODABLE


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
        (sign_json({"sub": "a"}) + "=", "base64url"),
        (sign_json({"sub": "a"}) + "\n", "base64url"),
        (" " + sign_json({"sub": "a"}), "base64url"),
        (sign_json({"sub": "a"})[:-1] + "B", "base64url"),
        (sign_json({"sub": "a"}, ["alg"]), "header: not a JSON object"),
        (sign_json({"sub": "a"}, b'{"alg": "HS256", "alg": "none"}'), "header: a member appears twice"),
        (sign_json({"sub": "a"}, b'{"alg": "HS256", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}"), "nested too deeply"),
        (sign_json({"sub": "a"}, {"alg": "HS256", "x": [1] * 500}), "too many values"),
        (sign_json({"sub": "a"}, {"alg": "HS256", "x": [[]] * 50}), "too many values"),
        ("." * 16_000, "three parts"),
        ("\ud800.b.c", "base64url"),
        (sign_json({"sub": "a" * 20_000}), "larger than 16384 bytes"),
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
    kind, _ = refusal(f"{part({'alg': 'HS256'})}.{part({'sub': 'a'})}.{text}")

    assert kind is (Refusal.BAD_SIGNATURE if good else Refusal.UNDECODABLE)


def test_an_empty_list_of_algorithms_allows_none() -> None:
    assert refusal(sign_json({"sub": "a"}), key_set=KeySet((), frozenset()))[0] is Refusal.UNSUPPORTED_ALGORITHM


def test_an_algorithm_without_a_key_is_said_so() -> None:
    assert refusal(sign_json({"sub": "a"}), key_set=KeySet((), frozenset({"HS256"}))) == (
        Refusal.NO_KEY,
        "no key for HS256",
    )


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}"))
def test_any_text_is_refused_and_nothing_else(token: str) -> None:
    with pytest.raises(Refused) as caught:
        check(token)
    assert caught.value.status == 403
