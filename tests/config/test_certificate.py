"""The certificate of the listeners: what is wrong with it is said in one line, before anybody starts."""

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import load_pem_x509_certificate

from gateway.config import Configuration, load
from gateway.errors import ConfigurationError
from tests.authority import LOOPBACK, Authority, authority_in
from tests.running_gateway import write_configuration

SERVER = {"listen": ["tls:127.0.0.1:0"], "tls_certificate": "server.pem", "tls_private_key": "server.pem"}
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = authority_in(tmp_path)
    made.server(LOOPBACK)
    (tmp_path / "server.pem").chmod(0o600)
    return made


def read(folder: Path, **server: Any) -> Configuration:
    return load(write_configuration(folder, "http://127.0.0.1:1", {"server": {**SERVER, **server}}), {})


def test_one_file_or_two_hold_certificate_and_key(authority: Authority) -> None:
    both = (authority.folder / "server.pem").read_text()
    start = both.index("-----BEGIN PRIVATE")
    (authority.folder / "chain.pem").write_text(both[:start] + (authority.folder / "authority.pem").read_text())
    (authority.folder / "key.pem").write_text("\ufeff\n" + both[start:])

    for server in ({}, {"tls_certificate": "chain.pem", "tls_private_key": str(authority.folder / "key.pem")}):
        certificate = read(authority.folder, **server).certificate
        assert certificate is not None
        assert "PRIVATE" not in repr(certificate)


def write(folder: Path, name: str, octets: bytes) -> str:
    (folder / name).write_bytes(octets)
    return name


def pem_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, passphrase: bytes = b"") -> bytes:
    protection: Any = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, PKCS8, protection)


def der(folder: Path) -> bytes:
    certificate = load_pem_x509_certificate((folder / "server.pem").read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


BROKEN: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "no certificate": (
        lambda _: {"tls_certificate": "none.pem"},
        "[server] tls_certificate: {}/none.pem can't be read",
    ),
    "no key": (lambda _: {"tls_private_key": "none.pem"}, "[server] tls_private_key: {}/none.pem can't be read"),
    "a directory": (lambda _: {"tls_private_key": "."}, "[server] tls_private_key: {} can't be read: Is a directory"),
    "no name of a key": (
        lambda _: {"tls_private_key": None},
        "[server] listen: has an address with tls: in front; set",
    ),
    "tls nowhere": (
        lambda _: {"listen": ["127.0.0.1:0"]},
        "[server] tls_certificate: is for addresses of `listen` with",
    ),
    "DER": (
        lambda folder: {"tls_certificate": write(folder, "server.der", der(folder))},
        "[server] tls_certificate: {}/server.der is not text; for bytes use",
    ),
    "an empty file": (
        lambda folder: {"tls_certificate": write(folder, "empty.pem", b"")},
        "[server] tls_certificate: {}/empty.pem holds no certificate in PEM form",
    ),
    "half a file": (
        lambda folder: {"tls_certificate": write(folder, "half.pem", (folder / "server.pem").read_bytes()[:300])},
        "[server] tls_certificate: {}/half.pem holds no certificate in PEM form",
    ),
    "a certificate as key": (
        lambda _: {"tls_private_key": "authority.pem"},
        "[server] tls_private_key: {}/authority.pem holds no private key in PEM form",
    ),
    "the key of another": (
        lambda folder: {"tls_private_key": write(folder, "x.pem", pem_key(ec.generate_private_key(ec.SECP256R1())))},
        "[server] tls_private_key: {}/x.pem is the key of another certificate; its own certificate must be the first",
    ),
    "a key of another kind": (
        lambda folder: {"tls_private_key": write(folder, "x.pem", pem_key(rsa.generate_private_key(65537, 2048)))},
        "[server] tls_private_key: {}/x.pem is the key of another certificate",
    ),
    "the chain the wrong way round": (
        lambda folder: {
            "tls_certificate": write(
                folder, "c.pem", (folder / "authority.pem").read_bytes() + (folder / "server.pem").read_bytes()
            )
        },
        "its own certificate must be the first in {}/c.pem",
    ),
    "a passphrase": (
        lambda folder: {
            "tls_private_key": write(folder, "x.pem", pem_key(ec.generate_private_key(ec.SECP256R1()), b"secret"))
        },
        "[server] tls_private_key: {}/x.pem is protected by a passphrase; take it off: openssl pkey -in {}/x.pem",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_it_is_said_in_one_line(authority: Authority, case: str) -> None:
    make, text = BROKEN[case]
    server = {name: value for name, value in {**SERVER, **make(authority.folder)}.items() if value is not None}
    path = write_configuration(authority.folder, "http://127.0.0.1:1", {"server": server})

    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    assert len(caught.value.problems) == 1
    assert text.replace("{}", str(authority.folder)) in caught.value.problems[0]
    assert "secret" not in caught.value.problems[0]


def test_who_may_not_read_secrets_reads_no_key(authority: Authority) -> None:
    path = write_configuration(authority.folder, "http://127.0.0.1:1", {"server": SERVER})
    (authority.folder / "server.pem").unlink()

    assert load(path, {}, with_secrets=False).certificate is None


def test_a_key_that_everybody_can_read_is_warned_of(authority: Authority) -> None:
    os.chmod(authority.folder / "server.pem", 0o644)  # noqa: PTH101 - as an operator would

    warnings = read(authority.folder).warnings
    assert [line.partition(" and everybody")[0] for line in warnings if "everybody on this machine" in line][-1:] == [
        f"{authority.folder}/server.pem: holds the private key of the certificate"
    ]


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (-2, "is not valid before"),
        (0, "expires on"),  # those of the tests last from yesterday to tomorrow
        (2, "has expired on"),
    ],
)
def test_a_certificate_out_of_its_time_is_warned_of(authority: Authority, days: int, text: str) -> None:
    configuration = read(authority.folder)
    now = (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).timestamp()

    warnings = configuration.warnings_at(now)
    assert [line for line in warnings if f"[server] tls_certificate: server.pem {text}" in line]
    assert len(warnings) == len(configuration.warnings) + 1


def test_one_that_lasts_is_no_concern(authority: Authority) -> None:
    certificate = read(authority.folder).certificate
    assert certificate is not None

    assert certificate.concern((certificate.ends - dt.timedelta(days=11)).timestamp()).startswith("is not valid")
    lasting = type(certificate)(certificate.context, certificate.begins - dt.timedelta(days=30), certificate.ends)
    assert lasting.concern((certificate.ends - dt.timedelta(days=11)).timestamp()) == ""
