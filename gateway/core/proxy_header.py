"""The PROXY protocol, versions 1 and 2: what a proxy says of a connection before the first octet of its client.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2, which the numbers below are of. The client's
address is taken, and whether the client spoke TLS with the proxy.
"""

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from gateway.core.addresses import plain

_LINE: Final = b"PROXY "
_MAX_LINE: Final = 107  # 2.1, with CRLF
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16  # 2.2: signature, version and command, family and protocol, length
# 2.2: UNSPEC, then TCP, UDP, unix stream and unix datagram; the octets that addresses take.
_FAMILIES: Final = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_TLV: Final = 3  # 2.2: type and length, before the value
_TLS: Final = 0x20  # 2.2.6, PP2_TYPE_SSL: bits of the client, the result of a verification, more TLVs
_TLS_FIXED: Final = 5
_CLIENT_TLS: Final = 1  # PP2_CLIENT_SSL


class NoProxyHeader(ValueError):
    """The octets are no header of the PROXY protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header of `size` octets.

    `source` is the client's address: "" where the proxy does not tell one, None where it speaks for itself (LOCAL).
    `secure`: whether the client spoke TLS with the proxy, None where the header does not say.
    """

    size: int
    source: str | None
    secure: bool | None = None


def read_proxy_header(octets: bytes) -> ProxyHeader | None:
    """Return the header that these octets begin with; raises `NoProxyHeader`.

    None: more octets are needed, and all of these belong to the header.
    """
    if octets.startswith(_SIGNATURE):
        return _version_2(octets)
    if octets.startswith(_LINE):
        return _version_1(octets)
    if _SIGNATURE.startswith(octets) or _LINE.startswith(octets):
        return None
    raise NoProxyHeader("it does not begin with a PROXY protocol header")


def _version_1(octets: bytes) -> ProxyHeader | None:
    end = octets.find(b"\n", 0, _MAX_LINE)
    if end < 0:
        if len(octets) >= _MAX_LINE:
            raise NoProxyHeader(f"the line of its PROXY protocol header is longer than {_MAX_LINE} octets")
        return None
    line = octets[: end + 1]
    if not line.endswith(b"\r\n"):
        raise NoProxyHeader("the line of its PROXY protocol header does not end with CRLF")
    match line[:-2].split(b" "):
        case [_, b"UNKNOWN", *_]:  # what follows is to be ignored
            return ProxyHeader(len(line), "")
        case [_, b"TCP4" | b"TCP6" as family, source, destination, *ports] if len(ports) == 2:
            kind = IPv4Address if family == b"TCP4" else IPv6Address
            _address(destination, kind)
            if all(map(_is_port, ports)):
                return ProxyHeader(len(line), _address(source, kind))
    raise NoProxyHeader("the line of its PROXY protocol header has another form")


def _address(text: bytes, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        if b"%" in text:  # a zone
            raise AddressValueError
        return plain(str(kind(text.decode("ascii"))))
    except ValueError:  # AddressValueError and UnicodeDecodeError are such
        raise NoProxyHeader("its PROXY protocol header has an address that is none") from None


def _is_port(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _version_2(octets: bytes) -> ProxyHeader | None:
    if len(octets) < _FIXED:
        return None
    version, command = octets[12] >> 4, octets[12] & 15
    if version != 2 or command > 1:
        raise NoProxyHeader(f"its PROXY protocol header has version {version} and command {command}")
    length = int.from_bytes(octets[14:_FIXED], "big")
    size = _FIXED + length
    if not command:  # LOCAL: whatever else it says is to be ignored
        return ProxyHeader(size, None) if len(octets) >= size else None
    needed = _FAMILIES.get(octets[13])
    if needed is None or length < needed:
        raise NoProxyHeader(f"its PROXY protocol header has {length} octets of family {octets[13]:#04x}")
    if len(octets) < size:
        return None
    behind = _FIXED + needed
    # UNSPEC may have addresses of another kind and of any size, so that TLVs can't be found there.
    secure = _spoke_tls(octets[behind:size]) if needed else None
    return ProxyHeader(size, _source(octets[13], octets[_FIXED:behind]), secure)


def _source(family: int, addresses: bytes) -> str:
    if family == 0x11:
        return str(IPv4Address(addresses[:4]))
    if family == 0x21:
        return plain(str(IPv6Address(addresses[:16])))
    return ""  # what is not understood counts as UNSPEC


def _spoke_tls(tlvs: bytes) -> bool | None:
    """Say whether the client spoke TLS, None where no TLV says it; those that are not understood are skipped."""
    secure, start = None, 0
    while start < len(tlvs):
        value = start + _TLV
        end = value + int.from_bytes(tlvs[start + 1 : value], "big")
        if end > len(tlvs):
            raise NoProxyHeader("a TLV of its PROXY protocol header ends behind the header")
        if tlvs[start] == _TLS:
            if secure is not None or end - value < _TLS_FIXED:
                raise NoProxyHeader("its PROXY protocol header does not say clearly whether TLS was spoken")
            secure = bool(tlvs[value] & _CLIENT_TLS)
        start = end
    return secure
