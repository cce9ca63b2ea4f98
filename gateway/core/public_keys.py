"""Public keys: a PEM to a key, and the algorithms that fit a key (RFC 7518 3.3 to 3.5, RFC 8037, RFC 9864).

No key says itself what it may verify: its kind, curve and size do.
"""

import re
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.jwk import ECKey, OKPKey, RSAKey

Kind: TypeAlias = Literal["ECDSA", "RSA", "EDDSA"]
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

# RFC 7518 3.4.
_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# RFC 7518 3.3 and 3.5; OpenSSL verifies with no larger one.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384
# RFC 7748 4.1 and 4.2. Points whose order divides the cofactor, by their y; all zeros is one of them. OpenSSL takes
# them as keys, and then all zeros is also the signature of every fourth message.
_P_25519: Final = 2**255 - 19
_P_448: Final = 2**448 - 2**224 - 1
_Y_OF_ORDER_8: Final = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_25519: Final = frozenset((0, 1, _P_25519 - 1, _Y_OF_ORDER_8, _P_25519 - _Y_OF_ORDER_8))
_SMALL_ORDER_448: Final = frozenset((0, 1, _P_448 - 1))

ALGORITHMS: Final[dict[Kind, tuple[str, ...]]] = {
    "ECDSA": tuple(_CURVE_ALGORITHMS.values()),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EDDSA": ("EdDSA", "Ed25519", "Ed448"),
}
ALL_ALGORITHMS: Final = tuple(name for names in ALGORITHMS.values() for name in names)


def load_pem(pem: str) -> PublicKey:
    """Return the key of a PEM public key or certificate; ValueError says what it is instead, and the mend."""
    if not pem.strip():
        raise ValueError("it is empty; put a PEM public key or certificate there")
    labels = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----", pem)
    if any(label.endswith("PRIVATE KEY") for label in labels):
        raise ValueError(
            "this is a private key, which belongs to the issuer alone; get the public one with"
            " `openssl pkey -in private.pem -pubout`"
        )
    if len(labels) > 1:
        raise ValueError(f"there are {len(labels)} PEM blocks; give one key or certificate, or a list of files")
    try:
        if labels == ["CERTIFICATE"]:
            key: object = x509.load_pem_x509_certificate(pem.strip().encode()).public_key()
        else:
            key = load_pem_public_key(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a PEM public key or certificate that can be read") from None
    if not isinstance(key, PublicKey):
        raise ValueError(f"a key of the kind {type(key).__name__} can't verify tokens")
    return key


def kind(key: PublicKey) -> Kind:
    """Return the kind of a key, as the `format` of the `[jwt]` table names it."""
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else "EDDSA"


def fitting(key: PublicKey) -> tuple[str, ...]:
    """Return the algorithms that a key may verify; ValueError says why there is none."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too small; use {MIN_RSA_BITS} or more")
        if key.key_size > MAX_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too large; use {MAX_RSA_BITS} or less")
        return ALGORITHMS["RSA"]
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVE_ALGORITHMS:
            raise ValueError(f"the curve {key.curve.name} has no algorithm here; use P-256, P-384 or P-521")
        return (_CURVE_ALGORITHMS[key.curve.name],)
    name = "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "Ed448"
    if _is_of_small_order(key):
        raise ValueError(f"an {name} key of small order, with which a signature by anybody verifies")
    return ("EdDSA", name)


def _is_of_small_order(key: ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) -> bool:
    """Say whether a key is such a point; its octets are y, the smallest octet first, and the sign of x (RFC 8032)."""
    raw = key.public_bytes_raw()
    if isinstance(key, ed25519.Ed25519PublicKey):
        return int.from_bytes(raw, "little") % 2**255 % _P_25519 in _SMALL_ORDER_25519
    return int.from_bytes(raw[:56], "little") % _P_448 in _SMALL_ORDER_448


def imported(key: PublicKey) -> RSAKey | ECKey | OKPKey:
    """Return the key as joserfc takes it."""
    spki = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if isinstance(key, rsa.RSAPublicKey):
        return RSAKey.import_key(spki)
    return ECKey.import_key(spki) if isinstance(key, ec.EllipticCurvePublicKey) else OKPKey.import_key(spki)
