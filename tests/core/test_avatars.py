"""What an avatar may be."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.avatars import image_type, is_mxc, is_public
from tests.pictures import SVG, png


@pytest.mark.parametrize("text", ["mxc://example.org/abc", "mxc://a:8448/A-z_0", "mxc://[2001:db8::1]:1/x"])
def test_content_has_a_server_and_a_media_id(text: str) -> None:
    assert is_mxc(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mxc:",
        "mxc://",
        "mxc://example.org",
        "mxc://example.org/",
        "mxc:///abc",
        "MXC://example.org/abc",
        "mxc://example.org/a/b",
        "mxc://example.org/../admin",
        "mxc://example.org/a?b",
        "mxc://example.org/a\n",
        "mxc://exa mple.org/a",
        "mxc://user@example.org/a",
        "mxc://example.org/" + "a" * 256,
        "https://example.org/abc",
    ],
)
def test_what_is_not_written_like_content_is_none(text: str) -> None:
    assert not is_mxc(text)


@given(st.text() | st.text().map("mxc://{}".format) | st.text().map("mxc://example.org/{}".format))
def test_any_text_is_content_or_not(text: str) -> None:
    assert not is_mxc(text) or text.isascii()


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (png(), "image/png"),
        (b"GIF87a...", "image/gif"),
        (b"GIF89a...", "image/gif"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x1a\0\0\0WEBPVP8L", "image/webp"),
        (b"RIFF\x1a\0\0\0WAVE", None),
        (SVG, None),
        (b"<?xml version='1.0'?>" + SVG, None),
        (b"<!DOCTYPE html>", None),
        (b" " + png(), None),
        (png()[:7], None),
        (b"BM", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_an_image_is_known_by_how_it_begins(octets: bytes, expected: str | None) -> None:
    assert image_type(octets) == expected


@pytest.mark.parametrize("address", ["8.8.8.8", "192.0.9.1", "2606:4700:4700::1111", "2001:4860:4860::8888"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "2001::1",
        "2002:7f00:1::",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::7f00:1",
    ],
)
def test_other_addresses_are_not_public_also_in_disguise(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_no_address_is_public_that_python_takes_for_private(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)
