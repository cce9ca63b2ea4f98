"""The inner parts of aiohttp that the gateway rests on are as it needs them, and the faults that it mends are there.

A test that fails here with a new version of aiohttp says what to look at in `gateway/http1.py`.
"""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import StreamReader, web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD, EmptyStreamReader

from gateway import http1
from gateway.http1 import ClientProtocol, Request, UpstreamProtocol

HTTP1 = Path(http1.__file__)
PACKAGE = HTTP1.parent

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"

# What aiohttp's loop over requests and its reading touch of a connection, in the version that ours were written for.
LOOP = {
    "_buffer_paused", "_close", "_current_request", "_force_close", "_handle_request", "_handler_waiter",
    "_keepalive", "_keepalive_handle", "_keepalive_timeout", "_lingering_time", "_logging_enabled", "_loop",
    "_make_error_handler", "_manager", "_messages", "_msg_queue_resume_size", "_next_keepalive_close_time",
    "_parser", "_process_keepalive", "_request_factory", "_request_handler", "_request_in_progress",
    "_resume_reading_if_drained", "_task_handler", "_waiter", "close", "finish_response", "force_close",
    "handle_error", "log_debug", "log_exception", "transport"
}  # fmt: skip
READING = {
    "_buffer_paused", "_close", "_data_received_cb", "_force_close", "_max_msg_queue_size", "_message_tail",
    "_messages", "_parser", "_pause_reading_for_buffer", "_payload_parser", "_read_bufsize",
    "_request_count", "_resume_reading_if_drained", "_upgraded", "_waiter", "close", "log_access",
    "log_exception"
}  # fmt: skip


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


def classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def is_parser(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "_parser" and is_self(node.value)


def named(tree: ast.AST, is_owner: Callable[[ast.AST], bool]) -> set[str]:
    """The attributes that are read, set or called of an owner."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_owner(node.value)}


def taken_from_aiohttp(ours: type) -> set[str]:
    """What a class of ours wants of its base.

    Attributes of `self` that it neither makes nor defines, what it asks of `super()`, and methods that nobody in the
    gateway names, which only aiohttp can call.
    """
    tree = classes(HTTP1)[ours.__name__]
    methods = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    made = {
        node.attr
        for node in ast.walk(methods["__init__"])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value)
    }
    own = made | set(vars(ours).get("__slots__", ())) | set(methods)
    everywhere = {name for path in PACKAGE.rglob("*.py") for name in named(ast.parse(path.read_text()), is_no_super)}
    return (named(tree, is_self) - own) | named(tree, is_super) | (set(methods) - everywhere)


def is_no_super(node: ast.AST) -> bool:
    return not is_super(node)


def not_there(names: set[str], base: type) -> list[str]:
    return sorted(name for name in names if not hasattr(base, name))


@pytest.mark.parametrize(
    ("ours", "base", "parser"),
    [
        (ClientProtocol, web.RequestHandler, HttpRequestParser),
        (UpstreamProtocol, BaseProtocol, HttpResponseParser),
    ],
)
def test_the_names_that_are_used_are_there(ours: type, base: type, parser: type) -> None:
    assert issubclass(ours, base)
    assert hasattr(base, "resume_reading")
    assert not_there(taken_from_aiohttp(ours), base) == []
    assert not_there(named(classes(HTTP1)[ours.__name__], is_parser), parser) == []


def test_a_name_that_is_not_there_is_seen() -> None:
    """An attribute, methods that are overridden, and one that is only called; what is our own is none of them."""
    missed = not_there(taken_from_aiohttp(ClientProtocol), object)

    assert {"_messages", "_pause_transport_reading", "_drain_helper"} <= set(missed)
    assert "_watch" not in missed


def has(owner: type, name: str) -> bool:
    """Whether a class has a slot, a method or an attribute that it sets itself."""
    return hasattr(owner, name) or name in named(ast.parse(inspect.getsource(owner)), is_self)


def test_the_private_names_that_functions_use_are_there() -> None:
    """Of arguments alone, whose annotation says which class of aiohttp they are of."""
    owners = {"web.RequestHandler": web.RequestHandler}
    tree = ast.parse(HTTP1.read_text(encoding="utf-8"))
    seen, missed = set(), []
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        annotated = {one.arg: ast.unparse(one.annotation) for one in function.args.args if one.annotation}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owner = owners[annotated[ast.unparse(node.value)]]
                seen.add((owner, node.attr))
                if not has(owner, node.attr):
                    missed.append((owner, node.attr))

    assert (web.RequestHandler, "_waiter") in seen
    assert missed == []
    assert not has(web.RequestHandler, "_waiters")


def test_no_name_of_ours_hides_one_of_aiohttp() -> None:
    slots = {name for owner in web.RequestHandler.__mro__ for name in getattr(owner, "__slots__", ())}

    assert not set(ClientProtocol.__slots__) & slots


def test_what_is_made_or_awaited_of_it_is_as_it_was() -> None:
    assert list(inspect.signature(web_protocol._ErrInfo).parameters) == ["status", "exc", "message"]  # noqa: SLF001 - this file is about them
    assert issubclass(EmptyStreamReader, StreamReader)
    assert inspect.iscoroutinefunction(BaseProtocol._drain_helper)  # noqa: SLF001 - the same


def methods_of(owner: type, *names: str) -> ast.Module:
    return ast.parse("".join(textwrap.dedent(inspect.getsource(getattr(owner, name))) for name in names))


def test_the_loops_that_ours_stand_for_do_what_they_did() -> None:
    """What they look at and change; of what is new here, our own may have to do something too."""
    loop = named(methods_of(web.RequestHandler, "start", "_handle_request"), is_self)
    reading = named(methods_of(web.RequestHandler, "data_received", "finish_response"), is_self)

    assert loop == LOOP
    assert reading == READING


def test_aiohttp_cancels_the_request_at_work_by_a_name_that_ours_has() -> None:
    source = inspect.getsource(web.RequestHandler.connection_lost) + inspect.getsource(web.RequestHandler.shutdown)

    assert set(re.findall(r"_current_request\.(\w+)", source)) == {"_cancel"}
    assert hasattr(Request, "_cancel")
