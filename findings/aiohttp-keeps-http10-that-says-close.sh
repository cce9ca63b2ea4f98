#!/usr/bin/env bash
# aiohttp 3.14.5 (with its C parser, llhttp): to an HTTP/1.0 message, `Connection: keep-alive, close` is one that keeps the
# connection (should_close is False), and so are the two options in two fields; to HTTP/1.1 the same field closes it.
# RFC 9112 9.3 looks at "close" first, whatever the version and the other options.
#
# Seen on Python 3.11.7:
#   HTTP/1.0 close                 should_close True
#   HTTP/1.0 keep-alive            should_close False
#   HTTP/1.0 keep-alive, close     should_close False
#   HTTP/1.0 close, keep-alive     should_close False
#   HTTP/1.1 keep-alive, close     should_close True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q aiohttp==3.14.5
"$work/venv/bin/python" - <<'PYTHON'
import asyncio

from aiohttp.http import HttpRequestParser


async def should_close(version: str, options: str) -> bool:
    parser = HttpRequestParser(None, asyncio.get_running_loop(), 2**16)
    head = f"GET / HTTP/{version}\r\nHost: h\r\nConnection: {options}\r\n\r\n".encode()
    ((message, _),), _, _ = parser.feed_data(head)
    print(f"HTTP/{version} {options:21} should_close {message.should_close}")
    return message.should_close


async def main() -> None:
    assert await should_close("1.0", "close")
    assert not await should_close("1.0", "keep-alive")
    assert not await should_close("1.0", "keep-alive, close")
    assert not await should_close("1.0", "close, keep-alive")
    assert await should_close("1.1", "keep-alive, close")


asyncio.run(main())
PYTHON
