"""Every attack that is written down gets its answer, and so do those that need keys or size. RFC 8725 is the list."""

import base64
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.core.identity import ClaimNames, IdentityRules, UserMapping, identify
from gateway.core.keys import KeySet, UnfitKeys, build_key_set
from gateway.core.tokens import TokenRules, Trust, verify
from gateway.errors import Refusal, Refused
from tests.attack_cases import Case, read_cases
from tests.signing import SECRET, encode, sign

NOW = 1_800_000_000
HMAC_KEYS = build_key_set("HMAC", [SECRET], ["HS256"])
CLAIM_NAMES = set(ClaimNames.model_fields)

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem_of(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


KEY_SETS = {
    "RS256": build_key_set("RSA", [pem_of(RSA).decode()], ["RS256"]),
    "ES256": build_key_set("ECDSA", [pem_of(P256).decode()], ["ES256"]),
    "EdDSA": build_key_set("EDDSA", [pem_of(ED25519).decode()], ["EdDSA"]),
}
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": P256, "EdDSA": ED25519}


def signing_input(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"


def answer(token: str, key_set: KeySet = HMAC_KEYS, **jwt: Any) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        verify(token, Trust(key_set, TokenRules(**jwt)), NOW)
    return caught.value.refusal, caught.value.detail


@pytest.mark.parametrize("case", read_cases(SECRET), ids=str)
def test_each_case_gets_its_answer(case: Case) -> None:
    rules = TokenRules(**{name: value for name, value in case.jwt.items() if name not in CLAIM_NAMES})
    names = ClaimNames(**{name: value for name, value in case.jwt.items() if name in CLAIM_NAMES})
    mapping = UserMapping.of(IdentityRules(), names, "example.org", issuer_matters=False)
    if case.user is not None:
        assert identify(verify(case.token, Trust(HMAC_KEYS, rules), NOW), mapping).user_id == case.user
        return
    with pytest.raises(Refused) as caught:
        identify(verify(case.token, Trust(HMAC_KEYS, rules), NOW), mapping)
    assert (caught.value.status, caught.value.body()) == (case.status, case.body)


def texts_of(name: str) -> dict[str, bytes]:
    """All ways in which a public key is written, and which could be taken for the secret of an HMAC."""
    key = PRIVATE[name]
    pem, public = pem_of(key), key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    kinds: dict[str, Any] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}
    jwk = kinds[name].import_key(pem).as_dict(private=False)
    texts = {
        "PEM": pem,
        "PEM without its last line end": pem.rstrip(b"\n"),
        "PEM with the line ends of Windows": pem.replace(b"\n", b"\r\n"),
        "PEM without its first and last line": b"".join(pem.splitlines()[1:-1]),
        "DER": der,
        "JWK": json.dumps(jwk).encode(),
        "JWK without spaces": json.dumps(jwk, separators=(",", ":")).encode(),
        "JWK's number": base64.urlsafe_b64decode(jwk.get("n", jwk.get("x", "")) + "=="),
        "nothing": b"",
    }
    if name == "RS256":
        texts["PKCS #1"] = public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    return texts


@pytest.mark.parametrize(("name", "form"), [(name, form) for name in KEY_SETS for form in texts_of(name)])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_no_form_of_a_public_key_is_ever_the_secret_of_an_hmac(name: str, algorithm: str, form: str) -> None:
    message = signing_input({"alg": algorithm}, {"sub": "alice"})
    forged = encode(hmac.digest(texts_of(name)[form], message.encode(), f"sha{algorithm[2:]}"))

    assert answer(f"{message}.{forged}", KEY_SETS[name]) == (Refusal.UNSUPPORTED_ALGORITHM, algorithm)


NAMED = ["RS256", "PS256", "ES256", "EdDSA", "RS512", "ES512", "ES256K", "Ed25519", "none"]


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in KEY_SETS for wrong in NAMED if wrong != name])
def test_a_good_signature_under_another_name_is_refused(name: str, wrong: str) -> None:
    message = signing_input({"alg": wrong}, {"sub": "alice"})

    assert answer(f"{message}.{encode(made(name, message))}", KEY_SETS[name]) == (
        Refusal.UNSUPPORTED_ALGORITHM,
        wrong,
    )


def made(name: str, message: str) -> bytes:
    """The right signature."""
    if name == "RS256":
        return RSA.sign(message.encode(), PKCS1v15(), SHA256())
    if name == "EdDSA":
        return ED25519.sign(message.encode())
    r, s = decode_dss_signature(P256.sign(message.encode(), ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


# SEC 2, section 2.4.2.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def numbers(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
def test_an_ecdsa_signature_of_chosen_numbers_does_not_verify(r: int, s: int) -> None:
    message = signing_input({"alg": "ES256"}, {"sub": "alice"})

    assert answer(f"{message}.{encode(numbers(r, s))}", KEY_SETS["ES256"]) == (Refusal.BAD_SIGNATURE, "")


def bent(signature: bytes) -> dict[str, bytes]:
    """Other spellings of an ECDSA signature, each of which some library took."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return {
        "DER": encode_dss_signature(r, s),
        "the halves exchanged": signature[32:] + signature[:32],
        "one octet less": signature[:-1],
        "one octet more": signature + b"\0",
        "zeros in front of both": b"\0" + signature[:32] + b"\0" + signature[32:],
        "as long as for P-521": signature[:32].rjust(66, b"\0") + signature[32:].rjust(66, b"\0"),
        "half": signature[:32],
        "twice": signature * 2,
        "nothing": b"",
    }


@pytest.mark.parametrize("form", bent(bytes(64)))
def test_another_spelling_of_a_good_ecdsa_signature_does_not_verify(form: str) -> None:
    message = signing_input({"alg": "ES256"}, {"sub": "alice"})
    signature = bent(made("ES256", message))[form]

    assert answer(f"{message}.{encode(signature)}", KEY_SETS["ES256"]) == (Refusal.BAD_SIGNATURE, "")


def test_both_s_of_an_ecdsa_signature_verify_because_jws_allows_them() -> None:
    message = signing_input({"alg": "ES256"}, {"sub": "alice"})
    signature = made("ES256", message)
    other = numbers(int.from_bytes(signature[:32], "big"), ORDER - int.from_bytes(signature[32:], "big"))

    for spelling in (signature, other):
        assert verify(f"{message}.{encode(spelling)}", Trust(KEY_SETS["ES256"], TokenRules()), NOW)


def test_a_key_verifies_only_with_the_algorithm_of_its_curve_also_beside_other_keys() -> None:
    both = build_key_set("ECDSA", [pem_of(P256).decode(), pem_of(P521).decode()], ["ES256", "ES512"])
    message = signing_input({"alg": "ES512"}, {"sub": "alice"})
    r, s = decode_dss_signature(P256.sign(message.encode(), ec.ECDSA(SHA512())))

    for size in (32, 66):
        token = f"{message}.{encode(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"
        assert answer(token, both) == (Refusal.BAD_SIGNATURE, "")
        assert answer(token, KEY_SETS["ES256"]) == (Refusal.UNSUPPORTED_ALGORITHM, "ES512")


def test_a_point_off_its_curve_is_no_key() -> None:
    der = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    moved = base64.b64encode(der[:-1] + bytes([der[-1] ^ 1])).decode()

    with pytest.raises(UnfitKeys):
        build_key_set("ECDSA", [f"-----BEGIN PUBLIC KEY-----\n{moved}\n-----END PUBLIC KEY-----\n"], ["ES256"])


@pytest.mark.parametrize("name", ["RS256", "EdDSA"])
def test_a_signature_with_an_octet_more_or_less_does_not_verify(name: str) -> None:
    message = signing_input({"alg": name}, {"sub": "alice"})
    good = made(name, message)

    assert verify(f"{message}.{encode(good)}", Trust(KEY_SETS[name], TokenRules()), NOW)
    for bad in (
        good[:-1],
        good + b"\0",
        b"\0" + good,
        good[1:],
        good * 2,
        b"",
        bytes(len(good)),
        b"\xff" * len(good),
    ):
        assert answer(f"{message}.{encode(bad)}", KEY_SETS[name]) == (Refusal.BAD_SIGNATURE, "")


def test_an_eddsa_signature_whose_number_is_not_reduced_does_not_verify() -> None:
    # RFC 8032 5.1.7: S below the order of the group, or a second signature could be made of the first.
    order = 2**252 + 27742317777372353535851937790883648493
    message = signing_input({"alg": "EdDSA"}, {"sub": "alice"})
    good = made("EdDSA", message)
    grown = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")

    assert answer(f"{message}.{encode(grown)}", KEY_SETS["EdDSA"]) == (Refusal.BAD_SIGNATURE, "")


MEBIBYTE = 1024 * 1024
BOMBS = {
    "lists": b'{"sub": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lists without an end": b'{"sub": "a", "x": ' + b"[" * 700_000,
    "objects": b'{"x":' * 50_000 + b"1" + b"}" * 50_000,
    "digits": b'{"sub": "a", "exp": ' + b"9" * 700_000 + b"}",
    "digits behind a minus": b'{"sub": "a", "exp": -' + b"9" * 700_000 + b"}",
    "digits behind the point": b'{"sub": "a", "exp": 1.' + b"9" * 700_000 + b"}",
    "digits before the point": b'{"sub": "a", "exp": ' + b"9" * 700_000 + b".0}",
    "digits of an exponent": b'{"sub": "a", "exp": 1e' + b"9" * 700_000 + b"}",
    "numbers": b'{"sub": "a", "aud": [' + b"1e9," * 170_000 + b"1]}",
    "audiences": b'{"sub": "a", "aud": [' + b'"",' * 200_000 + b'""]}',
    "members": b"{" + b",".join(b'"%d":0' % number for number in range(60_000)) + b"}",
    "surrogates": b'{"sub": "' + b"\\ud800" * 100_000 + b'"}',
    "backslashes": b'{"sub": "' + b"\\\\" * 300_000 + b'"',
    "spaces": b" " * 700_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_bomb_is_refused_before_long_also_where_large_tokens_are_allowed(part: str, bomb: str) -> None:
    header, payload = b'{"alg": "HS256"}', b'{"sub": "a"}'
    token = sign(BOMBS[bomb], payload, SECRET) if part == "header" else sign(header, BOMBS[bomb], SECRET)

    began = time.process_time()
    allowed = TokenRules(max_token_bytes=MEBIBYTE)
    with pytest.raises(Refused) as caught:
        claims = verify(token, Trust(HMAC_KEYS, allowed), NOW)
        identify(claims, UserMapping.of(IdentityRules(), ClaimNames(), "example.org", issuer_matters=False))
    assert caught.value.status in {400, 403}
    assert len(str(caught.value)) < 300
    assert time.process_time() - began < 5  # what is quadratic takes minutes


@pytest.mark.parametrize("bomb", BOMBS)
def test_with_the_default_size_no_bomb_is_looked_into(bomb: str) -> None:
    assert answer(sign(b'{"alg": "HS256"}', BOMBS[bomb], SECRET)) == (
        Refusal.UNDECODABLE,
        "the token is larger than 16384 bytes",
    )


@given(st.integers(0), st.integers(0, 255), st.sampled_from(["replace", "insert", "delete", "flip"]))
def test_a_good_token_with_any_change_is_refused(place: int, value: int, change: str) -> None:
    message = signing_input({"alg": "ES256"}, {"sub": "alice"})
    token = f"{message}.{encode(made('ES256', message))}"
    at, character = place % len(token), chr(value)
    if change == "flip":
        character = chr(ord(token[at]) ^ (1 << value % 7))
    changed = token[:at] + ("" if change == "delete" else character) + token[at + (change != "insert") :]
    if changed == token:
        return
    with pytest.raises(Refused) as caught:
        verify(changed, Trust(KEY_SETS["ES256"], TokenRules()), NOW)
    assert caught.value.status == 403


@given(
    st.lists(
        st.sampled_from([*'{}[]":,.\\ \n-+eE019', "alg", "sub", "exp", "null", "true", "\\u", "d8", "é", "NaN"]),
        max_size=20,
    ).map("".join)
)
@pytest.mark.parametrize("part", ["header", "payload"])
def test_signed_text_that_looks_like_json_gives_claims_or_a_refusal(part: str, text: str) -> None:
    raw = ('{"alg": "HS256", "sub": "a"' + text).encode()
    token = sign(raw, b'{"sub": "a"}', SECRET) if part == "header" else sign(b'{"alg": "HS256"}', raw, SECRET)
    try:
        assert verify(token, Trust(HMAC_KEYS, TokenRules()), NOW)["sub"] == "a"
    except Refused as refused:
        assert refused.status == 403
