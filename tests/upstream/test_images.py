"""Images are fetched from where it is allowed, in bounds, and nothing is taken for one that is none.

Rule: all traffic stays on this machine, so the hosts of the tests are listed; that without a list nothing here is
reached is seen by what is refused before any connection.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.fetching import NotFetched
from gateway.upstream.images import Image, Images, ImageSettings
from tests.authority import Authority
from tests.pictures import SVG, answer, png, redirect, serving
from tests.raw_http import Handler, RawServer, Script, read_message

PNG = png()
Runner = Callable[[Coroutine[Any, Any, None]], None]
# The gateway runs on uvloop, whose TLS is not asyncio's.
on_each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def images_of(server: RawServer, *, max_bytes: int = 10_000, patience: float = 5) -> Images:
    listed = ImageSettings(avatar_hosts=[f"127.0.0.1:{server.port}"], avatar_max_bytes=max_bytes)
    return Images(listed, timeout=patience)


async def refusal(images: Images, address: str) -> str:
    """Why it is not fetched; no part of the address but the host is told."""
    with pytest.raises(NotFetched) as caught:
        await images.fetch(address)
    assert "secret" not in str(caught.value)
    return str(caught.value)


@on_each_loop
def test_an_image_is_fetched_as_it_is(authority: Authority, run: Runner) -> None:
    async def main() -> None:
        script = Script(answer(PNG, "Content-Type: text/html", "Set-Cookie: a=b"))
        async with serving(authority, script) as server:
            images = images_of(server)
            for _ in range(2):
                image = await images.fetch(f"HTTPS://127.0.0.1:{server.port}/%2Fa%7e?b=%2F%2b&c#d")
                assert image == Image(PNG, "image/png")
            assert server.connections == 2
        for request in script.requests:
            assert request.startswith(b"GET /%2Fa%7e?b=%2F%2b&c HTTP/1.1\r\n")
            assert b"Accept-Encoding: identity\r\n" in request
            for absent in (b"cookie", b"authorization", b"referer"):
                assert absent not in request.lower()

    run(main())


@on_each_loop
@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + PNG, "ClientPayloadError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n" + PNG[:8] + b"\r\n", "ClientPayloadError"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG, "does not say where the image ends"),
        (b"HTTP/1.1 200 OK\r\nConte", "ServerDisconnectedError"),
    ],
    ids=["length", "chunked", "until close", "head"],
)
def test_a_part_of_an_image_is_none(authority: Authority, run: Runner, body: bytes, end: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(body)
        await writer.drain()

    async def main() -> None:
        async with serving(authority, handler) as server:
            assert end in await refusal(images_of(server), f"{server.url}/secret")

    run(main())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (answer(SVG, "Content-Type: image/svg+xml"), "no PNG, JPEG, GIF or WebP"),
        (answer(SVG, "Content-Type: image/png"), "no PNG, JPEG, GIF or WebP"),
        (answer(b"<html>", "Content-Type: image/png"), "no PNG, JPEG, GIF or WebP"),
        (answer(b"", "Content-Type: image/png"), "no PNG, JPEG, GIF or WebP"),
        (answer(PNG, "Content-Encoding: gzip"), "compressed"),
        (answer(PNG, status="404 Not Found"), "answered 404"),
        (answer(PNG, status="206 Partial Content"), "answered 206"),
        (answer(b"", status="304 Not Modified"), "answered 304"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n", "more than 10000 bytes"),
        (answer(PNG + b"\0" * 10_000), "more than 10000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n" + b"\0" * 20_000 + b"\r\n0\r\n\r\n",
            "more than 10000 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "the fetching failed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the fetching failed"),
    ],
)
async def test_what_is_no_image_is_not_taken(authority: Authority, sent: bytes, reason: str) -> None:
    async with serving(authority, Script(sent)) as server:
        assert reason in await refusal(images_of(server), f"{server.url}/secret?token=secret")


async def test_an_image_of_just_the_size_is_taken(authority: Authority) -> None:
    async with serving(authority, Script(answer(PNG))) as server:
        assert (await images_of(server, max_bytes=len(PNG)).fetch(server.url)).octets == PNG
        assert "more than" in await refusal(images_of(server, max_bytes=len(PNG) - 1), server.url)


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    while True:
        writer.write(b"\0")
        await writer.drain()
        await asyncio.sleep(0.02)


@on_each_loop
@pytest.mark.parametrize("handler", [silent, dripping])
def test_a_server_that_is_slow_is_given_up(authority: Authority, run: Runner, handler: Handler) -> None:
    async def main() -> None:
        async with serving(authority, handler) as server:
            reason = await refusal(images_of(server, patience=0.3), f"{server.url}/secret")
            assert reason == "the image was not there after 0.3 s"
            await asyncio.wait_for(server.ended.wait(), 5)

    run(main())


async def test_a_few_redirects_are_followed(authority: Authority) -> None:
    script = Script(redirect("/a?x=%2F"), redirect("b"), redirect("//127.0.0.1:{port}/c"), answer(PNG))
    async with serving(authority, script) as server:
        script.answers[2] = script.answers[2].replace(b"{port}", b"%d" % server.port)
        assert (await images_of(server).fetch(f"{server.url}/x/y")).octets == PNG
    assert [request.split(b" ")[1] for request in script.requests] == [b"/x/y", b"/a?x=%2F", b"/b", b"/c"]


@pytest.mark.parametrize("location", ["/", "", "/a#b"])
async def test_redirects_in_a_circle_come_to_an_end(authority: Authority, location: str) -> None:
    script = Script(redirect(location))
    async with serving(authority, script) as server:
        assert await refusal(images_of(server), server.url) == "more than 3 redirects"
    assert len(script.requests) == 4


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1:{port}/", "only https is fetched"),
        ("file:///etc/passwd", "only https is fetched"),
        ("data:image/png;base64,AAAA", "only https is fetched"),
        ("https://127.0.0.2:{port}/", "127.0.0.2:{port} is not in avatar_hosts"),
        ("https://localhost:{port}/", "localhost:{port} is not in avatar_hosts"),
        ("https://127.0.0.1/", "127.0.0.1:443 is not in avatar_hosts"),
        ("https://2130706433:{port}/", "2130706433:{port} is not in avatar_hosts"),
        ("https://secret@127.0.0.1:{port}/", "the address holds a name or a password"),
        ("https://[::1/", "the fetching failed: ValueError"),
    ],
)
async def test_a_redirect_leads_nowhere_that_a_claim_may_not(
    authority: Authority, location: str, reason: str
) -> None:
    script = Script(b"")
    async with serving(authority, script) as server:
        script.answers = [redirect(location.replace("{port}", str(server.port)))]
        expected = reason.replace("{port}", str(server.port))
        assert await refusal(images_of(server), server.url) == expected
        assert server.connections == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "[fc00::1]",
        "0x7f000001",
        "0x7f.1",
        "\uff11\uff12\uff17.0.0.1",  # full-width digits
    ],
)
async def test_without_a_list_nothing_of_ones_own_is_connected_to(host: str) -> None:
    assert "is no public address" in await refusal(Images(ImageSettings(), timeout=5), f"https://{host}/secret")


@pytest.mark.parametrize("host", ["2130706433", "017700000001", "127.1", "127.0.0.01", "0177.0.0.1", "0"])
async def test_an_address_in_an_unusual_form_is_refused(host: str) -> None:
    assert (await refusal(Images(ImageSettings(), timeout=5), f"https://{host}/secret")).startswith(
        ("the fetching failed: InvalidUrlClientError", "no connection to")
    )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.org/", "only https is fetched"),
        ("https:///secret", "only https is fetched"),
        ("https://", "only https is fetched"),
        ("", "only https is fetched"),
        ("https://example.org:8443/", "without avatar_hosts 443 alone is used"),
        ("https://example.org:80/", "without avatar_hosts 443 alone is used"),
        ("https://example.org:0/", "without avatar_hosts 443 alone is used"),
        ("https://alice:secret@example.org/", "the address holds a name or a password"),
        ("https://secret@example.org/", "the address holds a name or a password"),
        ("https://@example.org/", "the address holds a name or a password"),
        ("https://example.org\\@127.0.0.1/", ""),
        ("https://example.org:x/", "not an address"),
        ("https://[::1/", "not an address"),
    ],
)
async def test_an_address_that_may_hide_something_is_refused(address: str, reason: str) -> None:
    assert reason in await refusal(Images(ImageSettings(), timeout=5), address)


async def test_a_listed_host_is_meant_with_its_port(authority: Authority) -> None:
    async with serving(authority, Script(answer(PNG))) as server:
        images = Images(ImageSettings(avatar_hosts=["127.0.0.1"]), timeout=5)
        assert await refusal(images, server.url) == f"127.0.0.1:{server.port} is not in avatar_hosts"
        assert server.connections == 0


async def test_the_certificate_must_be_of_the_host(authority: Authority) -> None:
    async with serving(authority, Script(answer(PNG))) as server:
        other = Images(ImageSettings(avatar_hosts=[f"localhost:{server.port}"]), timeout=5)
        assert "certificate verify failed" in await refusal(other, f"https://localhost:{server.port}/")


async def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(stranger: Authority) -> None:
    async with serving(stranger, Script(answer(PNG))) as server:
        assert "certificate verify failed" in await refusal(images_of(server), server.url)


async def test_a_proxy_of_the_environment_is_not_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(authority, Script(answer(PNG))) as server:
        assert (await images_of(server).fetch(server.url)).octets == PNG


async def test_nobody_there_is_a_reason(unused_tcp_port: int) -> None:
    images = Images(ImageSettings(avatar_hosts=[f"127.0.0.1:{unused_tcp_port}"]), timeout=5)
    assert "no connection to 127.0.0.1" in await refusal(images, f"https://127.0.0.1:{unused_tcp_port}/secret")


@settings(deadline=None, max_examples=100)
@given(
    st.text()
    | st.text().map("https://{}".format)
    | st.text().map("https://127.0.0.1:1{}".format)
    | st.from_regex(r"https://(127\.0\.0\.1|\[::1\]|localhost)(:443)?[/?#].{0,9}", fullmatch=True)
)
def test_any_claim_is_fetched_or_refused(claim: str) -> None:
    images = Images(ImageSettings(avatar_hosts=["127.0.0.1:1"]), timeout=5)
    with pytest.raises(NotFetched):
        asyncio.run(images.fetch(claim))
