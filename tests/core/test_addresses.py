"""One address has one text, and trust goes by address."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import is_trusted, parse_address, plain

TRUSTED = [ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("::1/128"), ip_network("fe80::/10")]


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:201", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_an_address_has_one_text_and_what_is_none_keeps_its_own(text: str, one: str) -> None:
    assert plain(text) == one


@pytest.mark.parametrize(
    "text", ["", "unknown", "192.0.2.01", "192.0.2", "1::2::3", "1.2.3.4:80", "[::1]", "٣.0.0.1"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:10.1.2.3", True),
        ("fe80::1%eth0", True),
        ("", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("/run/client.sock", False),
        ("x", False),
    ],
)
def test_trust_goes_by_address(peer: str, *, trusted: bool) -> None:
    assert is_trusted(peer, TRUSTED) is trusted
