"""What a proxy says of a connection in the PROXY protocol, and that anything else is refused."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.proxy_header import NoProxyHeader, ProxyHeader, read_proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(body: bytes, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


IPV4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 4711, 443)
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 4711, 443)
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:203.0.113.7") + IPV6[16:]
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")


def tlv(kind: int, value: bytes = b"") -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def tls(bits: int, *more: bytes) -> bytes:
    """2.2.6: PP2_TYPE_SSL, with no certificate of the client that was verified."""
    return tlv(0x20, struct.pack("!BI", bits, 1) + b"".join(more))


TLVS = tlv(0x04, b"abc") + tlv(0x02, b"example.org")
TLS_1_3 = tlv(0x21, b"TLSv1.3")

HEADERS: dict[str, tuple[bytes, str | None]] = {
    "1, IPv4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "203.0.113.7"),
    "1, IPv6": (b"PROXY TCP6 2001:DB8:0::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    "1, IPv4 in IPv6": (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n", "203.0.113.7"),
    "1, the longest": (
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105, b"f") + b"\r\n",
        "",
    ),
    "1, unknown": (b"PROXY UNKNOWN\r\n", ""),
    "1, unknown with what is ignored": (b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 1\r\n", ""),
    "2, IPv4": (version_2(IPV4), "203.0.113.7"),
    "2, IPv6": (version_2(IPV6, 0x21), "2001:db8::7"),
    "2, IPv4 in IPv6": (version_2(MAPPED, 0x21), "203.0.113.7"),
    "2, with more": (version_2(IPV4 + TLVS), "203.0.113.7"),
    "2, IPv6 with more": (version_2(IPV6 + TLVS, 0x21), "2001:db8::7"),
    "2, with as much as there can be": (version_2(IPV4 + tlv(0xFF, bytes(65535 - 12 - 3))), "203.0.113.7"),
    "2, with as many as there can be": (version_2(IPV4 + tlv(0x04) * 21841), "203.0.113.7"),
    "2, UDP": (version_2(IPV4, 0x12), ""),
    "2, unix": (version_2(UNIX, 0x31), ""),
    "2, unspecified": (version_2(b"", 0x00), ""),
    "2, unspecified with more": (version_2(TLVS, 0x00), ""),
    "2, unspecified with addresses of another kind": (version_2(b"\x20" * 18, 0x00), ""),
    "2, local": (version_2(b"", 0x00, 0x20), None),
    "2, local with what is ignored": (version_2(IPV4 + TLVS, 0x11, 0x20), None),
    "2, local of no family": (version_2(TLVS, 0xFF, 0x20), None),
}

# Whether TLS was spoken, by the TLVs.
SECURE: dict[str, tuple[bytes, bool | None]] = {
    "none": (b"", None),
    "others": (TLVS, None),
    "TLS": (tls(0x01, TLS_1_3), True),
    "TLS, and a certificate": (tls(0x07, TLS_1_3, tlv(0x22, b"client")), True),
    "no TLS": (tls(0x00), False),
    "another bit": (tls(0xFE), False),
    "the shortest": (b"\x20\x00\x05\x01\x00\x00\x00\x00", True),
    "among others": (TLVS + tls(0x01) + TLVS, True),
    "a checksum, which is not looked at": (tlv(0x03, bytes(4)) + tls(0x01), True),
    "what looks like it in another's value": (tlv(0x05, tls(0x01)), None),
    "what looks like it in its own value": (tls(0x00, tls(0x01)), False),
}

NONE = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00",
    "lower case": b"proxy TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    "a broken signature": b"\r\n\r\n\0\r\nQUIT\r",
    "another word": b"PROXZ",
    "1, another family": b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    "1, no family": b"PROXY \r\n",
    "1, a field too few": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n",
    "1, a field too many": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 1\r\n",
    "1, two spaces": b"PROXY TCP4  203.0.113.7 192.0.2.1 4711 443\r\n",
    "1, a space at the end": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 \r\n",
    "1, LF alone": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n",
    "1, LF alone, later CRLF": b"PROXY UNKNOWN\nabc\r\n",
    "1, no line": b"PROXY UNKNOWN " + b"a" * 93,
    "1, IPv6 as IPv4": b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
    "1, IPv4 as IPv6": b"PROXY TCP6 203.0.113.7 192.0.2.1 4711 443\r\n",
    "1, octal": b"PROXY TCP4 203.0.113.007 192.0.2.1 4711 443\r\n",
    "1, a name": b"PROXY TCP4 localhost 192.0.2.1 4711 443\r\n",
    "1, a zone": b"PROXY TCP6 fe80::1%a ::1 4711 443\r\n",
    "1, a broken destination": b"PROXY TCP4 203.0.113.7 x 4711 443\r\n",
    "1, no ASCII": b"PROXY TCP4 203.0.113.\xb7 192.0.2.1 4711 443\r\n",
    "1, a port too large": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
    "1, a signed port": b"PROXY TCP4 203.0.113.7 192.0.2.1 +1 443\r\n",
    "1, no port": b"PROXY TCP4 203.0.113.7 192.0.2.1  443\r\n",
    "2, version 1": version_2(IPV4, 0x11, 0x11),
    "2, another command": version_2(IPV4, 0x11, 0x22),
    "2, another family": version_2(IPV4, 0x41),
    "2, another protocol": version_2(IPV4, 0x13),
    "2, a family without protocol": version_2(IPV4, 0x10),
    "2, IPv4 cut short": version_2(IPV4[:11]),
    "2, IPv6 cut short": version_2(IPV6[:35], 0x21),
    "2, unix cut short": version_2(UNIX[:215], 0x31),
    "2, a TLV without a length": version_2(IPV4 + TLVS + b"\x20"),
    "2, a TLV with half a length": version_2(IPV4 + TLVS + b"\x04\x00"),
    "2, a TLV longer than the header": version_2(IPV4 + TLVS + b"\x04\x00\x01"),
    "2, TLS longer than the header": version_2(IPV4 + tls(0x01)[:-1]),
    "2, a TLV longer than the header, behind TLS": version_2(IPV6 + tls(0x01) + b"\x04\xff\xffabc", 0x21),
    "2, TLVs of a unix socket cut short": version_2(UNIX + b"\x04", 0x31),
    "2, TLVs of UDP cut short": version_2(IPV4 + b"\x04", 0x12),
    "2, TLS without bits": version_2(IPV4 + tlv(0x20)),
    "2, TLS without a verification": version_2(IPV4 + tlv(0x20, b"\x01\x00\x00\x00")),
    "2, TLS twice": version_2(IPV4 + tls(0x01) + tls(0x00)),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_read_wherever_it_is_cut_and_nothing_behind_it(case: str) -> None:
    octets, source = HEADERS[case]
    whole = ProxyHeader(len(octets), source)

    assert read_proxy_header(octets) == whole
    assert read_proxy_header(octets + b"GET / HTTP/1.1\r\n") == whole
    for size in (*range(min(len(octets), 300)), len(octets) - 1):
        assert read_proxy_header(octets[:size]) is None


@pytest.mark.parametrize("case", SECURE)
def test_version_2_says_whether_tls_was_spoken(case: str) -> None:
    tlvs, secure = SECURE[case]

    for addresses, family in ((IPV4, 0x11), (IPV6, 0x21), (UNIX, 0x31), (IPV4, 0x12)):
        header = read_proxy_header(version_2(addresses + tlvs, family) + b"GET / HTTP/1.1\r\n")
        assert header is not None
        assert header.secure is secure


def test_who_is_not_told_of_spoke_nothing_that_is_known() -> None:
    """A proxy's own connection, and one of no known family: what is behind it need not be TLVs."""
    for octets in (version_2(tls(0x01), 0x00), version_2(IPV4 + tls(0x01), 0x11, 0x20), b"PROXY UNKNOWN\r\n"):
        header = read_proxy_header(octets)
        assert header is not None
        assert header.secure is None


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_header_is_refused(case: str) -> None:
    with pytest.raises(NoProxyHeader, match="PROXY protocol"):
        read_proxy_header(NONE[case])


def check(octets: bytes) -> None:
    try:
        header = read_proxy_header(octets)
    except NoProxyHeader:
        return
    if header is not None:
        assert 15 <= header.size <= len(octets)
        assert read_proxy_header(octets[: header.size]) == header
        assert read_proxy_header(octets[: header.size - 1]) is None


@given(st.binary())
def test_any_octets_are_a_header_or_the_beginning_of_one_or_refused(octets: bytes) -> None:
    check(octets)


@given(st.binary(max_size=120))
def test_any_line_is_a_header_or_the_beginning_of_one_or_refused(rest: bytes) -> None:
    check(b"PROXY " + rest)
    check(b"PROXY TCP4 " + rest + b"\r\n")
    check(b"PROXY TCP6 " + rest + b"\r\n")


@given(st.binary(max_size=20), st.binary(max_size=300))
def test_any_binary_header_is_one_or_the_beginning_of_one_or_refused(start: bytes, body: bytes) -> None:
    check(SIGNATURE + start + body)
    check(version_2(body, *start[:1]))
    check(version_2(IPV4 + body))


@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65535))
def test_both_versions_read_the_same_address(four: object, six: object, port: int) -> None:
    for family, kind, address in ((b"TCP4", 0x11, four), (b"TCP6", 0x21, six)):
        line = b"PROXY %b %b %b %d %d\r\n" % (family, str(address).encode(), str(address).encode(), port, port)
        packed: bytes = address.packed  # type: ignore[attr-defined]
        first, second = read_proxy_header(line), read_proxy_header(version_2(packed * 2 + bytes(4), kind))
        assert first is not None
        assert second is not None
        assert first.source == second.source
