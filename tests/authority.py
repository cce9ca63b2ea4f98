"""A certificate authority of the tests, and the certificates of the servers that it vouches for."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@dataclass(frozen=True)
class Authority:
    """Signs certificates for servers."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    def server(self, *names: x509.GeneralName) -> ssl.SSLContext:
        """What a server needs that goes by these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self.folder / "server.pem"
        path.write_bytes(
            certificate(self.name, self.key, key, x509.SubjectAlternativeName(names))
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def certificate(
    issuer: x509.Name, signing: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey, *more: x509.ExtensionType
) -> bytes:
    """A certificate for today, the issuer's own when `more` says so."""
    now = dt.datetime.now(dt.UTC)
    itself = signing is key
    name = issuer if itself else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    builder = (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=itself, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def authority_in(folder: Path) -> Authority:
    """A new authority, whose certificate is `authority.pem` in `folder`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
    made = Authority(folder, ec.generate_private_key(ec.SECP256R1()), name)
    (folder / "authority.pem").write_bytes(certificate(made.name, made.key, made.key))
    return made
