"""Key material is refused at start with the reason and the mend, and never repeated."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.keys import ALGORITHMS, Format, UnfitKeys, build_key_set
from tests.authority import certificate

P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem() -> str:
    return RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def small_order() -> str:
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes(32))
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("key_format", "secret", "algorithms"),
    [
        ("HMAC", "x" * 32, ["HS256"]),
        ("HMAC", "x" * 64, ["HS256", "HS384", "HS512"]),
        ("B64HMAC", base64.b64encode(b"\xff" * 33).decode(), ["HS256"]),
        ("B64HMAC", base64.urlsafe_b64encode(b"\xff" * 34).decode().rstrip("="), ["HS256"]),
        ("B64HMAC", base64.encodebytes(b"x" * 64).decode(), ["HS512"]),
        ("RSA", pem(RSA), ["RS256", "PS512"]),
        ("ECDSA", certificate(x509.Name([]), P256, P256).decode(), ["ES256"]),
        ("ECDSA", pem(P256), ["ES256"]),
        ("EDDSA", "\n" + pem(ED) + "\n", ["EdDSA", "Ed25519"]),
    ],
)
def test_good_material_makes_keys_for_its_algorithms(key_format: Format, secret: str, algorithms: list[str]) -> None:
    key_set = build_key_set(key_format, [secret], algorithms)

    assert key_set.algorithms == set(algorithms)
    assert all(len(key_set.candidates(name)) == 1 for name in algorithms)
    assert key_set.candidates("none") == []


@pytest.mark.parametrize(
    ("key_format", "secret", "algorithms", "reason"),
    [
        ("HMAC", "", ["HS256"], "it is empty; make one with `openssl rand -base64 48`"),
        ("HMAC", "  \n", ["HS256"], "it is empty"),
        ("HMAC", "x" * 31, ["HS256"], "31 bytes are too short for HS256, which needs 32"),
        ("HMAC", "x" * 63, ["HS256", "HS512"], "63 bytes are too short for HS256, HS512, which need 64"),
        ("HMAC", pem(RSA), ["HS256"], "this is a public or private key, not an HMAC secret"),
        ("B64HMAC", "é" * 60, ["HS256"], "it is not base64"),
        ("HMAC", "x" * 32, ["RS256"], "'RS256' does not belong to format 'HMAC'; use one of HS256, HS384, HS512"),
        ("B64HMAC", "####", ["HS256"], "it is not base64"),
        ("B64HMAC", "====", ["HS256"], "it is empty"),
        ("B64HMAC", "QUJD", ["HS256"], "3 bytes are too short"),
        ("RSA", "", ["RS256"], "it is empty; put a PEM public key or certificate there"),
        ("RSA", "nonsense", ["RS256"], "it is not a PEM public key or certificate that can be read"),
        ("RSA", pem(RSA).replace("MII", "AAA"), ["RS256"], "it is not a PEM public key"),
        ("RSA", private_pem(), ["RS256"], "this is a private key, which belongs to the issuer alone"),
        ("RSA", pem(rsa.generate_private_key(65537, 1024)), ["RS256"], "1024 bits is too small; use 2048 or more"),
        ("RSA", pem(P256), ["RS256"], "an ECDSA key where format says RSA"),
        ("RSA", pem(RSA) + pem(RSA), ["RS256"], "there are 2 PEM blocks"),
        ("EDDSA", small_order(), ["EdDSA"], "an Ed25519 key of small order"),
        ("ECDSA", pem(RSA), ["ES256"], "an RSA key where format says ECDSA"),
        ("ECDSA", pem(P256), ["ES384"], "the key fits ES256, which algorithm does not list"),
        ("ECDSA", pem(P256), ["ES256", "ES384"], "no key fits ES384"),
        ("ECDSA", pem(ec.generate_private_key(ec.SECP256K1())), ["ES256"], "the curve secp256k1 has no algorithm"),
        ("EDDSA", pem(P256), ["EdDSA"], "an ECDSA key where format says EDDSA"),
        ("EDDSA", pem(ED), ["Ed448"], "the key fits EdDSA and Ed25519, which algorithm does not list"),
        ("RSA", pem(dsa.generate_private_key(1024)), ["RS256"], "can't verify tokens"),
    ],
)
def test_bad_material_is_refused_with_its_mend(
    key_format: Format, secret: str, algorithms: list[str], reason: str
) -> None:
    with pytest.raises(UnfitKeys) as caught:
        build_key_set(key_format, [secret], algorithms)

    assert reason in caught.value.problems[0].text
    assert len(secret) < 30 or secret not in str(caught.value)


def test_a_weak_secret_is_taken_where_that_is_allowed() -> None:
    assert build_key_set("HMAC", ["short"], ["HS512"], allow_weak_secret=True).candidates("HS512")


def test_every_bad_key_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(UnfitKeys) as caught:
        build_key_set("HMAC", ["a", "x" * 32, ""], ["HS256"])

    assert [problem.position for problem in caught.value.problems] == [1, 3]


def test_no_secret_at_all_is_refused() -> None:
    with pytest.raises(UnfitKeys, match="there is none"):
        build_key_set("HMAC", [], ["HS256"])


@given(st.sampled_from(sorted(ALGORITHMS)), st.text())
def test_any_text_as_secret_gives_keys_or_a_report(key_format: Format, secret: str) -> None:
    try:
        build_key_set(key_format, [secret], [ALGORITHMS[key_format][0]])
    except UnfitKeys as error:
        assert len(error.problems) == 1
