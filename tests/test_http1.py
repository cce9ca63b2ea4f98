"""The inner parts of aiohttp that the gateway rests on are as it needs them, and the faults that it mends are there.

A test that fails here with a new version of aiohttp says what to look at in `gateway/http1.py`.
"""

import asyncio
import inspect
import re
from collections.abc import Sequence
from importlib.metadata import requires, version
from typing import Any

from aiohttp import StreamReader, web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD, EmptyStreamReader

from gateway.http1 import ClientProtocol, Written

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


def request_parser() -> Any:
    loop = asyncio.get_running_loop()
    return HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)


async def feed(octets: bytes) -> tuple[Sequence[Any], bool, bytes]:
    parsed: tuple[Sequence[Any], bool, bytes] = request_parser().feed_data(octets)
    return parsed


def test_the_installed_version_is_one_that_the_project_allows() -> None:
    allowed = next(line for line in requires("matrix-login-gateway") or [] if line.startswith("aiohttp"))

    assert sorted(allowed.removeprefix("aiohttp").split(",")) == ["<3.15", ">=3.14.5"]
    assert version("aiohttp").startswith("3.14.")


def test_the_parsers_are_those_written_in_c() -> None:
    assert HttpRequestParser.__module__ == HttpResponseParser.__module__ == "aiohttp._http_parser"


async def test_a_trailer_becomes_a_field_of_the_next_request_in_aiohttp_itself() -> None:
    """Without it, requests need not be parsed apart, and a parser could stay."""
    messages, _, _ = await feed(CHUNKED + NEXT)

    assert (b"X-Trailer", b"1") in messages[1][0].raw_headers


async def test_what_follows_the_body_of_a_request_that_asks_for_another_protocol_is_lost_in_aiohttp_itself() -> None:
    """Without it, the connection of such a request could be kept."""
    upgrade = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\na"
    messages, upgraded, tail = await feed(upgrade + NEXT)

    assert (len(messages), upgraded, tail) == (1, False, b"")


async def test_the_largest_length_is_none_to_the_parser() -> None:
    """Without it, `_check_framing` need not look at lengths."""
    messages, _, _ = await feed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\n")

    assert messages[0][1] is EMPTY_PAYLOAD


async def test_a_reader_that_a_chunk_just_woke_does_not_learn_of_an_error_in_aiohttp_itself() -> None:
    """Without it, `break_body` need not say it twice."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    body = StreamReader(protocol, 2**16, loop=loop)
    body.begin_http_chunk_receiving()
    body.feed_data(b"a")
    assert await body.readany() == b"a"
    reader = asyncio.ensure_future(body.readany())
    await asyncio.sleep(0)
    body.end_http_chunk_receiving()
    body.set_exception(ValueError("broken"))
    done, _ = await asyncio.wait([reader], timeout=0.05)
    reader.cancel()

    assert not done


def test_the_names_that_are_used_are_there() -> None:
    used = {
        "_messages",
        "_max_msg_queue_size",
        "_waiter",
        "_current_request",
        "_request_count",
        "_upgraded",
        "_message_tail",
        "_reading_paused",
        "_read_bufsize",
        "_parser",
        "_loop",
    }
    slots = {name for owner in web.RequestHandler.__mro__ for name in getattr(owner, "__slots__", ())}

    assert used <= slots
    assert not set(ClientProtocol.__slots__) & slots
    assert list(inspect.signature(web_protocol._ErrInfo).parameters) == ["status", "exc", "message"]  # noqa: SLF001 - this file is about them
    assert issubclass(EmptyStreamReader, StreamReader)
    assert inspect.iscoroutinefunction(BaseProtocol._drain_helper)  # noqa: SLF001 - the same


def test_the_server_asks_no_more_of_an_answer_than_the_gateway_gives() -> None:
    source = inspect.getsource(web.RequestHandler.finish_response) + inspect.getsource(web.RequestHandler.start)
    asked = set(re.findall(r"\bresp\.(\w+)", source))

    assert asked == {"prepare", "write_eof", "keep_alive"}
    assert all(hasattr(Written(keep_alive=True), name) for name in asked)
