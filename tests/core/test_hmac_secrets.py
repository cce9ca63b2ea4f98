"""A secret is what the issuer and the gateway alone know: text or base64, and no key in any form."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from gateway.core.hmac_secrets import Kind, load

RSA = rsa.generate_private_key(65537, 2048)
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk() -> str:
    return json.dumps(RSAKey.import_key(PEM).as_dict(private=False))


def der(private_format: PrivateFormat, password: bytes | None = None) -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return base64.b64encode(RSA.private_bytes(Encoding.DER, private_format, encryption)).decode()


def certificate() -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, RSA.public_key(), 1, start, start + timedelta(days=1))
    return builder.sign(RSA, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


SSH = RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
# Base64 as identity systems show it.
BARE = {
    "certificate": "".join(certificate().splitlines()[1:-1]),
    "key": "".join(PEM.splitlines()[1:-1]),
    "PKCS1": base64.b64encode(RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode(),
    "private key": der(PrivateFormat.PKCS8),
    "private key as PKCS1": der(PrivateFormat.TraditionalOpenSSL),
    "private key with a password": der(PrivateFormat.PKCS8, b"password"),
    "SSH": SSH.split(" ")[1],
}
TEXTS = {
    "PEM": PEM,
    "PEM behind other text": "Bag Attributes\n" + certificate(),
    "PEM in quotes": f'"{PEM}"',
    "JWK": jwk(),
    "JWK set": f' {{"keys": [{jwk()}]}}\n',
    "JWK of a certificate": json.dumps({"x5c": [BARE["certificate"]]}),
    "SSH": SSH,
    "SSH with options": 'from="192.0.2.1" ' + SSH,
    "SSH security key": "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t" + "A" * 32,
    "SSH2": f"---- BEGIN SSH2 PUBLIC KEY ----\n{BARE['SSH']}\n---- END SSH2 PUBLIC KEY ----\n",
}
PUBLIC = {
    **TEXTS,
    **{f"base64 of {kind}": base64.b64encode(text.encode()).decode() for kind, text in TEXTS.items()},
    **{f"{kind} in base64": text for kind, text in BARE.items()},
    **{f"{kind} in base64url": text.translate({43: 45, 47: 95, 61: None}) for kind, text in BARE.items()},
}


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("form", PUBLIC)
def test_what_others_know_is_no_secret(form: str, kind: Kind) -> None:
    with pytest.raises(ValueError, match="this is a public or private key, not an HMAC secret"):
        load(kind, PUBLIC[form])


@pytest.mark.parametrize(
    "secret",
    ['{"secret": "0123456789abcdef0123456789abcdef"}', '["kty", "keys", "x5c", "0123456789abcdef"]', "7" * 40],
)
def test_text_that_looks_a_little_like_a_key_is_a_secret(secret: str) -> None:
    assert load("HMAC", secret) == secret.encode()


@given(st.sampled_from(get_args(Kind)), st.text())
def test_any_text_is_a_secret_or_refused(kind: Kind, text: str) -> None:
    with suppress(ValueError):
        assert load(kind, text)
