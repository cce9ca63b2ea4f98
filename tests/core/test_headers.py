"""Fields cross the gateway as they are, but for those of one hop and those that a client could lie with."""

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import headers
from gateway.core.headers import REQUEST_ID, Field, Fields, Hop, client_address, head_octets, is_host

TRUSTED = [ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("::1/128")]
STRANGER = Hop("192.0.2.1", trusted=False)
PROXY = Hop("127.0.0.1", trusted=True)


def end_to_end(fields: Sequence[Field]) -> list[Field]:
    return [*headers.end_to_end(Fields(fields))]


def to_homeserver(fields: Sequence[Field], hop: Hop) -> list[Field]:
    return [*headers.to_homeserver(Fields(fields), hop)]


def test_end_to_end_fields_keep_case_order_value_and_duplicates() -> None:
    fields = [
        (b"hOST", b"x"),
        (b"Authorization", b"X-Matrix a"),
        (b"authorization", b"X-Matrix b"),
        (b"X-\xff", b"\xff"),
    ]

    assert end_to_end(fields) == fields


def test_fields_of_the_hop_and_those_that_connection_names_stay() -> None:
    fields = [
        (b"Connection", b"close, X-Mine,keep-alive"),
        (b"X-Mine", b"1"),
        (b"Keep-Alive", b"1"),
        (b"TE", b"trailers"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"websocket"),
        (b"Proxy-Authorization", b"x"),
        (b"Proxy-Connection", b"x"),
        (b"X-Other", b"2"),
    ]

    assert end_to_end(fields) == [(b"X-Other", b"2")]


def test_connection_can_take_neither_host_nor_length_away() -> None:
    fields = [(b"Connection", b"Host, Content-Length"), (b"Host", b"x"), (b"Content-Length", b"1")]

    assert end_to_end(fields) == fields[1:]


def test_every_line_of_connection_names_fields() -> None:
    fields = [(b"A", b"1"), (b"connection", b"a,, b"), (b"B", b"2"), (b"Connection", b"\tC ,Close"), (b"c", b"3")]

    assert end_to_end([*fields, (b"Close", b"4"), (b"D", b"5")]) == [(b"D", b"5")]
    assert to_homeserver([*fields, (b"D", b"5")], PROXY)[0] == (b"D", b"5")


def memory(work: Callable[[], object]) -> tuple[int, int]:
    """The most octets that are in use at work, and those that are kept of it; its result is dropped."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        _, most = tracemalloc.get_traced_memory()
        gc.collect()
        return most, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("crossing", [end_to_end, lambda fields: to_homeserver(fields, STRANGER)])
def test_memory_is_linear_in_what_connection_names(crossing: Callable[[Sequence[Field]], list[Field]]) -> None:
    fields = [
        (b"Connection", b",".join(b"%x-%x" % (line, number) for number in range(line * 500, (line + 1) * 500)))
        for line in range(60)
    ]

    most, kept = memory(lambda: crossing([*fields, (b"Host", b"h")]))

    assert most < 40 * sum(len(value) for _, value in fields)
    assert kept < 4096


def test_no_host_that_a_client_sends_is_kept_unless_it_is_short() -> None:
    numbers = iter(range(10**6))

    _, kept = memory(lambda: [is_host(f"{next(numbers)}." + "a" * 16_000) for _ in range(300)])

    assert kept < 100_000


def test_what_a_stranger_says_of_itself_is_replaced() -> None:
    lies: list[Field] = [
        (b"Host", b"example.org"),
        (b"X-Forwarded-For", b"6.6.6.6"),
        (b"x_forwarded_for", b"6.6.6.6"),
        (b"X-Forwarded_Proto", b"https"),
        (b"X-FORWARDED-HOST", b"evil"),
        (b"Forwarded", b"for=6.6.6.6"),
        (b"X-Real-IP", b"6.6.6.6"),
        (b"X-Forwarded-Port", b"1"),
        (b"x_forwarded-PORT", b"1"),
    ]

    assert to_homeserver(lies, STRANGER) == [
        (b"Host", b"example.org"),
        (b"X-Forwarded-For", b"192.0.2.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"example.org"),
    ]


def test_what_a_trusted_proxy_says_passes_and_nothing_is_added_to_it() -> None:
    fields = [(b"Host", b"h"), (b"X-Forwarded-For", b"192.0.2.9, 10.0.0.1")]

    assert to_homeserver(fields, PROXY) == fields


def test_where_a_trusted_proxy_says_nothing_it_is_the_client() -> None:
    assert to_homeserver([(b"Host", b"h")], PROXY) == [
        (b"Host", b"h"),
        (b"X-Forwarded-For", b"127.0.0.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"h"),
    ]


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"X-Forwarded-Port"])
def test_connection_can_not_take_away_what_a_proxy_says(name: bytes) -> None:
    fields = [(b"Host", b"h"), (b"X-Forwarded-Proto", b"https"), (name, b"443"), (b"Connection", name)]

    assert to_homeserver(fields, PROXY) == fields[:3]


def test_a_port_alone_says_nothing_of_the_client() -> None:
    fields = [(b"Host", b"h"), (b"X-Forwarded-Port", b"443")]

    assert to_homeserver(fields, PROXY)[:3] == [*fields, (b"X-Forwarded-For", b"127.0.0.1")]


def test_what_only_looks_like_a_word_of_a_proxy_passes() -> None:
    fields = [
        (name, b"x")
        for name in (b"X-Forwarded", b"X-Forwarded-Server", b"X-Forwarded-Prefix", b"X-Scheme", b"X-Original-Host")
    ]

    assert to_homeserver(fields, STRANGER)[: len(fields)] == fields


@pytest.mark.parametrize("host", ["example.org", "example.org:8448", "[2001:db8::1]:80", "1.2.3.4", "a_b", ""])
def test_a_name_or_an_address_with_a_port_is_a_host(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize("host", ["a b", "a/b", "u@h", "h:x", "[::1", "h\\", "h#", "h?", "\xe4", "h:1:2"])
def test_anything_else_is_no_host(host: str) -> None:
    assert not is_host(host)


HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
    b"proxy-authenticate", b"proxy-authorization",
}  # fmt: skip
NEVER_NAMED = {
    b"host", b"content-length", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
    b"forwarded", b"x-real-ip",
}  # fmt: skip
SOCKET = Hop("", trusted=True)


@pytest.mark.parametrize(
    ("hop", "values", "address"),
    [
        (STRANGER, [b"6.6.6.6"], "192.0.2.1"),
        (PROXY, [], ""),
        (SOCKET, [], ""),
        (SOCKET, [b"192.0.2.9"], "192.0.2.9"),
        (PROXY, [b"192.0.2.9"], "192.0.2.9"),
        (PROXY, [b"6.6.6.6, 192.0.2.9, 10.0.0.1"], "192.0.2.9"),
        (PROXY, [b"6.6.6.6", b"192.0.2.9"], "192.0.2.9"),
        (PROXY, [b"6.6.6.6, 192.0.2.9", b"10.0.0.1", b"10.0.0.2, ::1"], "192.0.2.9"),
        (PROXY, [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (PROXY, [b"nonsense, 192.0.2.9"], "192.0.2.9"),
        (PROXY, [b"nonsense"], ""),
        (PROXY, [b"192.0.2.9, unknown, 10.0.0.1"], ""),
        (PROXY, [b"192.0.2.9, unix:"], ""),
        (PROXY, [b"192.0.2.9,"], "192.0.2.9"),
        (PROXY, [b", \t192.0.2.9 , ,"], "192.0.2.9"),
        (PROXY, [b"", b" "], ""),
        (PROXY, [b"192.0.2.9:4711"], "192.0.2.9"),
        (PROXY, [b"[2001:DB8::1]:4711"], "2001:db8::1"),
        (PROXY, [b"[2001:db8::1]"], "2001:db8::1"),
        (PROXY, [b"2001:db8:0:0::1"], "2001:db8::1"),
        (PROXY, [b"6.6.6.6, ::ffff:192.0.2.9, ::ffff:10.0.0.1"], "192.0.2.9"),
        (PROXY, [b"2001:db8::1, [::1]:80"], "2001:db8::1"),
        (PROXY, [b"fe80::1%eth0"], "fe80::1"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_trusted_proxy(
    hop: Hop, values: list[bytes], address: str
) -> None:
    assert client_address([(b"X-Forwarded-For", value) for value in values], hop, TRUSTED) == address


def test_no_more_of_a_list_is_read_than_there_are_proxies_in_a_row() -> None:
    """Reading an address takes longer than anything else, and a head has place for thousands."""
    proxies = [b"10.0.%d.%d" % (number // 256, number % 256) for number in range(5000)]
    fields = [(b"X-Forwarded-For", b",".join([b"192.0.2.9", *proxies[:count]])) for count in (31, 32, 5000)]

    found = [client_address([field], PROXY, TRUSTED) for field in fields]

    assert found == ["192.0.2.9", "10.0.0.0", "10.0.19.104"]


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_whatever_a_proxy_writes_is_an_address_or_none(values: list[bytes]) -> None:
    address = client_address([(b"x-forwarded-for", value) for value in values], PROXY, TRUSTED)

    assert not address or str(ip_address(address)) == address


@pytest.mark.parametrize(("secure", "values"), [(True, [b"https"]), (False, [b"http"]), (None, [])])
@pytest.mark.parametrize("trusted", [True, False])
def test_whether_the_client_spoke_tls_is_told_where_it_is_known(
    *, trusted: bool, secure: bool | None, values: list[bytes]
) -> None:
    sent = to_homeserver([(b"Host", b"h")], Hop("192.0.2.1", trusted, secure))

    assert [value for name, value in sent if name == b"X-Forwarded-Proto"] == values
    assert (b"X-Forwarded-For", b"192.0.2.1") in sent
    assert (b"X-Forwarded-Host", b"h") in sent


def test_the_scheme_that_a_stranger_claims_goes_even_where_the_right_one_is_not_known() -> None:
    claimed: list[Field] = [(b"X-Forwarded-Proto", b"https"), (b"x_forwarded_proto", b"https")]

    assert to_homeserver(claimed, Hop("", trusted=False, secure=None)) == []


TOKENS = st.text("abcXYZ-_!0", min_size=1, max_size=8) | st.sampled_from(["Connection", "TE", "x-forwarded-for"])
VALUES = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=20)
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=8).map(
    lambda fields: [(name.encode(), value.encode("latin-1").strip()) for name, value in fields]
)


@given(FIELDS)
def test_filtering_twice_is_filtering_once(fields: list[Field]) -> None:
    once = end_to_end(fields)

    assert end_to_end(once) == once
    assert to_homeserver(once, STRANGER) == to_homeserver(to_homeserver(once, STRANGER), STRANGER)


@given(FIELDS)
def test_lines_that_stay_are_those_that_came(fields: list[Field]) -> None:
    values = [value.lower() for name, value in fields if name.lower() == b"connection"]
    options = {option.strip() for value in values for option in value.split(b",")}
    gone = HOP_BY_HOP | (options - NEVER_NAMED)

    assert end_to_end(fields) == [field for field in fields if field[0].lower() not in gone]


def test_others_stay_here_where_they_are_asked_to() -> None:
    ids: list[Field] = [(b"X-Request-ID", b"a"), (b"x_request_id", b"b"), (b"X-REQUEST_ID", b"c")]
    rest: list[Field] = [(b"ETag", b"1"), (b"X-Requested-With", b"c")]

    assert [*headers.to_homeserver(Fields([*ids, *rest]), PROXY, REQUEST_ID)][:2] == rest
    assert [*headers.end_to_end(Fields(rest), {b"etag"})] == rest[1:]


def test_a_head_is_its_parts_in_their_order() -> None:
    fields = [(b"b", b"1"), (b"A", b"")]

    assert head_octets(b"GET /a%2f? HTTP/1.1", fields) == b"GET /a%2f? HTTP/1.1\r\nb: 1\r\nA: \r\n\r\n"
