"""The reverse proxy that one usually writes with aiohttp: a web.Application before a ClientSession.

A peer of the relay benchmark and nothing else: it changes bytes on the way, and knows no Upgrade.

    python -m tests.benchmarks.client_session_proxy PORT UPSTREAM_URL
"""

import sys
from collections.abc import AsyncIterator, Iterable

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
SESSION = web.AppKey("session", ClientSession)
UPSTREAM = web.AppKey("upstream", str)


def end_to_end(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields if name.lower() not in HOP_BY_HOP]


async def relay(request: web.Request) -> web.StreamResponse:
    target = URL(request.app[UPSTREAM] + request.raw_path, encoded=True)
    async with request.app[SESSION].request(
        request.method,
        target,
        headers=end_to_end(request.headers.items()),
        data=request.content if request.body_exists else None,
        allow_redirects=False,
    ) as answer:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in end_to_end(answer.headers.items()):
            response.headers.add(name, value)
        response.content_length = answer.content_length
        await response.prepare(request)
        async for part in answer.content.iter_any():
            await response.write(part)
        await response.write_eof()
        return response


async def with_session(application: web.Application) -> AsyncIterator[None]:
    async with ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        timeout=ClientTimeout(total=None),
    ) as session:
        application[SESSION] = session
        yield


def main() -> None:
    port, upstream = sys.argv[1:]
    application = web.Application()
    application[UPSTREAM] = upstream
    application.cleanup_ctx.append(with_session)
    application.router.add_route("*", "/{path:.*}", relay)
    web.run_app(
        application,
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        backlog=4096,  # the usual 128 makes thousands that come at once wait for seconds
        loop=uvloop.new_event_loop(),
        print=None,
    )


if __name__ == "__main__":
    main()
