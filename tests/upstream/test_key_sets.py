"""A set comes over a trusted way, bounded in size and time, or one exception says why not."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.fetching import NotFetched
from gateway.upstream.key_sets import MAX_AGE, MIN_AGE, KeySetClient, check_url, lifetime
from tests.authority import LOOPBACK, Authority
from tests.fake_issuer import DISCOVERY, JWKS, FakeIssuer, running_issuer


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as running:
        yield running


def direct(issuer: FakeIssuer) -> KeySetClient:
    return KeySetClient(issuer.jwks_url, timeout=2)


def discovering(issuer: FakeIssuer) -> KeySetClient:
    return KeySetClient(issuer.discovery_url, [issuer.url], timeout=2)


async def failure(client: KeySetClient) -> str:
    with pytest.raises(NotFetched) as caught:
        await client.fetch()
    return str(caught.value)


def redirect(target: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=302, headers={"Location": target})


async def test_a_set_is_fetched_from_its_url(issuer: FakeIssuer) -> None:
    fetched = await direct(issuer).fetch()

    assert json.loads(fetched.octets) == issuer.jwk_set()
    assert fetched.max_age == MIN_AGE


async def test_a_set_is_found_by_discovery_each_time(issuer: FakeIssuer) -> None:
    client = discovering(issuer)
    await client.fetch()
    issuer.metadata["jwks_uri"] = issuer.url + "/moved"
    issuer.answers["/moved"] = lambda: web.json_response({"keys": []})

    assert (await client.fetch()).octets == b'{"keys": []}'
    assert [asked.path for asked in issuer.asked] == [DISCOVERY, JWKS, DISCOVERY, "/moved"]


async def test_no_cookie_is_sent_and_no_compression_asked_for(issuer: FakeIssuer) -> None:
    issuer.headers["Set-Cookie"] = "a=b; Path=/"
    client = direct(issuer)
    await client.fetch()
    await client.fetch()

    for asked in issuer.asked:
        assert "Cookie" not in asked.headers
        assert asked.headers["Accept-Encoding"] == "identity"


async def test_a_proxy_of_the_environment_is_not_used(issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert (await direct(issuer).fetch()).octets


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"issuer": "https://other.example"}, "is of the issuer 'https://other.example', which issuer does not name"),
        ({"issuer": "{url}/"}, "which issuer does not name"),
        ({"issuer": "HTTP://127.0.0.1"}, "which issuer does not name"),
        ({"issuer": "http://id.example"}, '"issuer" MUST use'),
        ({"issuer": 5}, "is no discovery document, which has an issuer and a jwks_uri"),
        ({"jwks_uri": None}, "is no discovery document, which has an issuer and a jwks_uri"),
        ({"jwks_uri": "/jwks"}, "is no discovery document that can be used"),
        ({"jwks_uri": "http://id.example/jwks"}, "is no discovery document that can be used"),
        ({"jwks_uri": "file:///etc/passwd"}, "is no discovery document that can be used"),
        ({"jwks_uri": "https://user:word@id.example/"}, "a user, a password or a #"),
    ],
)
async def test_a_document_that_is_not_the_issuers_is_refused(
    issuer: FakeIssuer, metadata: dict[str, Any], why: str
) -> None:
    issuer.metadata = {
        name: value.replace("{url}", issuer.url) if isinstance(value, str) else value
        for name, value in metadata.items()
    }

    assert why in await failure(discovering(issuer))
    assert issuer.fetches == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"issuer": 1, "issuer": 2}', b"[" * 100_000, b"\xff"])
async def test_a_document_that_is_none_is_refused(issuer: FakeIssuer, body: bytes) -> None:
    issuer.answers[DISCOVERY] = lambda: web.Response(body=body)

    assert "is no discovery document that can be used" in await failure(discovering(issuer))


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500, 503])
async def test_only_200_is_an_answer(issuer: FakeIssuer, status: int) -> None:
    issuer.answers[JWKS] = lambda: web.Response(status=status)

    assert await failure(direct(issuer)) == f"{issuer.jwks_url} answered {status}"


async def test_redirects_to_the_same_origin_are_followed_a_few_times(issuer: FakeIssuer) -> None:
    issuer.answers |= {"/a": redirect("/b"), "/b": redirect(issuer.url + "/c"), "/c": redirect("jwks")}

    assert (await KeySetClient(issuer.url + "/a", timeout=2).fetch()).octets

    issuer.answers["/0"] = redirect("/a")
    assert "redirects more than 3 times" in await failure(KeySetClient(issuer.url + "/0", timeout=2))


async def test_a_circle_of_redirects_ends(issuer: FakeIssuer) -> None:
    issuer.answers[JWKS] = redirect(JWKS)

    assert "redirects more than 3 times" in await failure(direct(issuer))
    assert issuer.fetches == 4


@pytest.mark.parametrize("target", ["http://localhost:{port}/jwks", "https://127.0.0.1:{port}/jwks", "//id.example/"])
async def test_a_redirect_to_another_host_is_not_followed(issuer: FakeIssuer, target: str) -> None:
    issuer.answers[JWKS] = redirect(target.replace("{port}", str(issuer.port)))

    assert "redirects to another host" in await failure(direct(issuer))
    assert issuer.fetches == 1


@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "http://[", "http://\u2603:99999/"])
async def test_a_redirect_to_nowhere_is_refused(issuer: FakeIssuer, target: str) -> None:
    issuer.answers[JWKS] = redirect(target)

    assert issuer.jwks_url in await failure(direct(issuer))


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(issuer: FakeIssuer) -> None:
    issuer.answers[JWKS] = lambda: web.Response(body=b"a" * 1024 * 1024)
    assert len((await direct(issuer).fetch()).octets) == 1024 * 1024

    issuer.answers[JWKS] = lambda: web.Response(body=b"a" * 8 * 1024 * 1024)
    assert await failure(direct(issuer)) == f"{issuer.jwks_url} sent more than 1048576 bytes"


async def test_a_compressed_answer_is_refused(issuer: FakeIssuer) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    issuer.answers[JWKS] = lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    assert "sent it compressed, unasked" in await failure(direct(issuer))


async def test_an_issuer_that_hangs_is_given_up(issuer: FakeIssuer) -> None:
    issuer.hold = asyncio.Event()

    assert "takes longer than 0.2 s" in await failure(KeySetClient(issuer.jwks_url, timeout=0.2))
    issuer.hold.set()


async def test_an_issuer_that_is_down_is_said_so(issuer: FakeIssuer) -> None:
    client = direct(issuer)
    await issuer.stop()

    assert "can't be reached: " in await failure(client)


async def test_a_query_is_sent_and_stays_out_of_the_message(issuer: FakeIssuer) -> None:
    issuer.answers[JWKS] = lambda: web.Response(status=500)

    assert "secret" not in await failure(KeySetClient(issuer.jwks_url + "?key=secret", timeout=2))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_set_comes_over_tls_of_a_trusted_authority(authority: Authority, run: Any) -> None:
    async def main() -> None:
        async with running_issuer(authority.server(LOOPBACK)) as issuer:
            assert (await discovering(issuer).fetch()).octets

    run(main())


async def test_a_certificate_of_nobody_trusted_is_refused(stranger: Authority) -> None:
    async with running_issuer(stranger.server(LOOPBACK)) as issuer:
        assert "certificate verify failed" in await failure(direct(issuer))
    assert issuer.asked == []


async def test_a_certificate_of_another_name_is_refused(authority: Authority) -> None:
    async with running_issuer(authority.server(x509.DNSName("localhost"))) as issuer:
        assert "certificate verify failed" in await failure(direct(issuer))


async def test_a_document_behind_https_cannot_lead_to_http(authority: Authority) -> None:
    async with running_issuer(authority.server(LOOPBACK)) as issuer, running_issuer() as plain:
        issuer.metadata["jwks_uri"] = plain.jwks_url

        assert "names a set that is not behind https" in await failure(discovering(issuer))
        assert plain.asked == []


@pytest.mark.parametrize(
    "url", ["https://id.example/jwks", "https://id.example:8443/a?b=c", "http://127.0.0.1:81/", "http://[::1]/x"]
)
def test_a_url_that_keeps_keys_whole_is_good(url: str) -> None:
    assert str(check_url(url)) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "not a URL"),
        ("id.example/jwks", "not a URL"),
        ("https://", "not a URL"),
        ("https://[", "not a URL"),
        ("https://a:99999/", "not a URL"),
        ("file:///etc/passwd", "not a URL"),
        ("ftp://id.example/", "not a URL"),
        ("http://id.example/jwks", "http lets others change the keys"),
        ("http://127.0.0.1.id.example/", "http lets others change the keys"),
        ("http://localhost.id.example/", "http lets others change the keys"),
        ("http://0.0.0.0/", "http lets others change the keys"),
        ("http://localhost@id.example/", "a user, a password or a #"),
        ("https://user:word@id.example/", "a user, a password or a #"),
        ("https://id.example/#jwks", "a user, a password or a #"),
    ],
)
def test_any_other_url_is_refused_with_the_mend(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"write https://HOST/PATH$") as caught:
        check_url(url)
    assert str(caught.value).startswith(why)


@given(st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = check_url(text)
    except ValueError:
        return
    assert url.host


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", MIN_AGE),
        ("public", MIN_AGE),
        ("max-age=600", 600),
        ("public, Max-Age=3600, must-revalidate", 3600),
        ('max-age="700"', 700),
        ("max-age=0", MIN_AGE),
        ("max-age=-1", MIN_AGE),
        ("max-age=junk", MIN_AGE),
        ("max-age=99999999", MAX_AGE),
        ("max-age=" + "9" * 9000, MAX_AGE),
        ("max-age=900, max-age=800", 800),
        ("s-maxage=900", MIN_AGE),
        ("x-max-age=900", MIN_AGE),
        ("no-store, max-age=900", MIN_AGE),
        ("no-cache, max-age=900", MIN_AGE),
    ],
)
def test_a_set_is_kept_as_long_as_its_issuer_says_within_bounds(cache_control: str, seconds: int) -> None:
    assert lifetime(cache_control) == seconds


@given(st.text())
def test_any_cache_control_gives_a_time_within_bounds(text: str) -> None:
    assert MIN_AGE <= lifetime(text) <= MAX_AGE


async def test_the_cache_control_of_the_set_counts(issuer: FakeIssuer) -> None:
    issuer.headers["Cache-Control"] = "public, max-age=900"

    assert (await discovering(issuer).fetch()).max_age == 900
