"""A request target goes up as it came, and one in absolute-form loses what `Host` says too (RFC 9112 3.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.target import origin_form
from gateway.errors import Refusal, Refused

AS_IT_CAME = ["/", "/?", "//a", "/a/../b", "/a%2Fb%2f", "/?a=b&a=b&&;+", "/http://other/", "/a?b?c", "//h/x", "/*"]


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("target", AS_IT_CAME)
def test_a_path_stays_as_it_is(method: str, target: str) -> None:
    """RFC 9112 3.2.1: a proxy must not rewrite path and query."""
    assert origin_form(method, target, "h") == target
    assert origin_form(method, f"http://h{target}", "h") == target


@pytest.mark.parametrize(
    ("method", "target", "sent"),
    [
        # RFC 9112 3.2.4: asterisk-form, and what the last proxy makes of an empty path without a query.
        ("OPTIONS", "*", "*"),
        ("OPTIONS", "http://h", "*"),
        ("OPTIONS", "HTTPS://H", "*"),
        ("OPTIONS", "http://h/", "/"),
        # RFC 9112 3.2.1: an empty path is "/" anywhere else.
        ("OPTIONS", "http://h?x", "/?x"),
        ("OPTIONS", "http://h?", "/?"),
        ("GET", "http://h", "/"),
        ("GET", "https://h?x", "/?x"),
        ("HEAD", "http://h?", "/?"),
        ("options", "http://h", "/"),  # RFC 9110 9.1: methods are case-sensitive
        # RFC 9110 4.2.3: scheme and host are not.
        ("GET", "HtTp://H/A", "/A"),
        # RFC 9112 3.2.2: absolute-form, here with what looks like another authority behind it.
        ("GET", "http://h/a@b://c", "/a@b://c"),
        ("GET", "http://h/?u=http://x/", "/?u=http://x/"),
        ("GET", "http://h?u=http://x/", "/?u=http://x/"),
    ],
)
def test_absolute_form_and_asterisk_form_are_sent_as(method: str, target: str, sent: str) -> None:
    assert origin_form(method, target, "h") == sent


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        ("GET", "*", "h"),  # RFC 9112 3.2.4: of OPTIONS alone
        ("GET", "", "h"),
        ("OPTIONS", "", "h"),
        ("GET", "a/b", "h"),
        ("GET", "?a", "h"),
        ("GET", "h:80", "h"),  # RFC 9112 3.2.3: of CONNECT alone
        ("GET", "ftp://h/", "h"),
        ("GET", "://h/", "h"),
        ("GET", "http:/h/", "h"),
        ("GET", "http:h", "h"),
        ("GET", " http://h/", "h"),
        ("GET", "http://other/", "h"),
        ("OPTIONS", "http://other", "h"),
        ("GET", "http://h:80/", "h"),
        ("GET", "http://u@h/", "h"),  # RFC 9110 4.2.4
        ("GET", "http://h#a", "h"),
        ("GET", "http://h\\/", "h"),
        ("GET", "http://h/", ""),
        ("OPTIONS", "http://h", ""),
        # RFC 9110 4.2.1: a URI without a host is invalid.
        ("GET", "http:///", ""),
        ("GET", "http:///a", "h"),
        ("OPTIONS", "http://", ""),
        ("GET", "https://?a", ""),
    ],
)
def test_what_could_mean_something_else_is_refused(method: str, target: str, host: str) -> None:
    with pytest.raises(Refused) as caught:
        origin_form(method, target, host)

    assert caught.value.refusal is Refusal.BAD_REQUEST


@given(st.sampled_from(["GET", "OPTIONS"]), st.text(max_size=30), st.text(max_size=5))
def test_any_target_becomes_a_path_or_an_asterisk_or_is_refused(method: str, target: str, host: str) -> None:
    for form in (target, f"http://{host}{target}", f"http://{target}"):
        try:
            sent = origin_form(method, form, host)
        except Refused as refused:
            assert refused.refusal is Refusal.BAD_REQUEST
        else:
            assert sent == "*" or sent.startswith("/")
            assert sent in {"*", "/"} or sent.removeprefix("/") in form
