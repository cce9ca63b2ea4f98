"""TLS of our own: the certificate that clients see, and what of TLS is spoken with them.

The rule of this file: TLS 1.2 and 1.3 with forward secrecy and authenticated encryption alone (RFC 9325 3.1, 4.2), no
compression, no renegotiation, no early data, and HTTP/1.1 as the one protocol on top.
"""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.http.acceptor import TlsOptions

# Of TLS 1.2; all suites of TLS 1.3 are such. Level 2 is what Debian builds in: RSA of 2048 bits, no SHA-1.
_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# Who renews a certificate by itself does so 30 days before its end; this late something has failed.
_SOON: Final = timedelta(days=10)
# Seconds that a client may take to answer our close_notify.
_GOODBYE: Final = 2.0


# The path of a file in PEM form, and its text.
PemFile: TypeAlias = tuple[Path, str]


class UnfitCertificate(ValueError):
    """A certificate and a key with which TLS can't be spoken: the option that is to blame, and why."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready for use."""

    context: ssl.SSLContext = field(repr=False)
    begins: datetime
    ends: datetime

    def concern(self, now: float) -> str:
        """Return what is wrong with its time, "" if nothing; `now` in seconds since 1970."""
        moment = datetime.fromtimestamp(now, UTC)
        if moment < self.begins:
            return f"is not valid before {self.begins:%Y-%m-%d %H:%M} UTC; clients refuse it"
        if moment >= self.ends:
            return f"has expired on {self.ends:%Y-%m-%d %H:%M} UTC; clients refuse it"
        if moment >= self.ends - _SOON:
            return f"expires on {self.ends:%Y-%m-%d %H:%M} UTC; renew it and reload the gateway"
        return ""


def make_certificate(certificate_file: PemFile, key_file: PemFile) -> Certificate:
    """Return what two files stand for, one with the certificate and its chain; raises `UnfitCertificate`."""
    (chain, chain_text), (key, key_text) = certificate_file, key_file
    try:
        own = x509.load_pem_x509_certificates(chain_text.encode())[0]
    except ValueError as error:
        raise UnfitCertificate("tls_certificate", f"{chain} holds no certificate in PEM form") from error
    try:
        private = load_pem_private_key(key_text.encode(), None)
    except TypeError as error:  # that is how it says that a passphrase is needed
        mend = f"take it off: openssl pkey -in {key} -out NEW_FILE"
        raise UnfitCertificate("tls_private_key", f"{key} is protected by a passphrase; {mend}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnfitCertificate("tls_private_key", f"{key} holds no private key in PEM form") from error
    if private.public_key() != own.public_key():
        hint = f"its own certificate must be the first in {chain}"
        raise UnfitCertificate("tls_private_key", f"{key} is the key of another certificate; {hint}")
    context = _context()
    try:
        context.load_cert_chain(chain, key, password=_nobody_types)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror
        raise UnfitCertificate("tls_certificate", f"{chain} and {key} are not accepted: {reason}") from error
    return Certificate(context, own.not_valid_before_utc, own.not_valid_after_utc)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _nobody_types() -> str:
    return ""  # without this, OpenSSL asks on the terminal


class Shown:
    """The certificate that new connections see; `options` are for the listeners, which keep them."""

    def __init__(self) -> None:
        self._current = context = _context()
        # Called at each handshake, whether the client names a server or not.
        context.sni_callback = self._choose
        self.options: TlsOptions = {
            "ssl": context,
            "ssl_shutdown_timeout": _GOODBYE,
        }

    def use(self, certificate: Certificate, timeout: float) -> None:
        """Show another one from the next connection on, whose handshake may take `timeout` seconds."""
        self._current = certificate.context
        self.options["ssl_handshake_timeout"] = timeout

    def _choose(self, tls: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        tls.context = self._current
