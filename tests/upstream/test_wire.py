"""One connection to the homeserver, fed octet by octet."""

import asyncio

import pytest

from gateway.upstream.wire import READ_LIMIT, Broken, Connection


class Recorded(asyncio.Transport):
    """A transport's end that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def new_connection(method: str = "GET") -> tuple[Connection, Recorded]:
    transport = Recorded()
    connection = Connection(asyncio.get_running_loop())
    connection.connection_made(transport)
    connection.begin(method, b"head")
    return connection, transport


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
async def test_an_answer_may_come_in_any_pieces(step: int) -> None:
    connection, transport = new_connection()
    octets = b"HTTP/1.1 200 Fine\r\nX-A: \xe4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for start in range(0, len(octets), step):
        connection.data_received(octets[start : start + step])
    message, body = await connection.message()
    assert (message.code, message.reason, message.raw_headers[0]) == (200, "Fine", (b"X-A", b"\xe4"))
    assert await body.read() == b"abcde"
    assert transport.written == b"head"
    connection.finish()
    assert connection.usable


async def test_the_answer_to_head_has_no_body_and_the_next_one_has() -> None:
    connection, _ = new_connection("HEAD")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    _, body = await connection.message()
    assert body.is_eof()
    connection.finish()
    connection.begin("GET", b"head")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    _, body = await connection.message()
    assert await body.read() == b"hello"


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"garbage", b"\0"])
@pytest.mark.parametrize("with_the_answer", [True, False])
async def test_a_connection_on_which_more_came_than_was_asked_for_is_not_used_again(
    surplus: bytes, *, with_the_answer: bool
) -> None:
    connection, transport = new_connection()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    if with_the_answer:
        connection.data_received(answer + surplus)
    else:
        connection.data_received(answer)
        await connection.message()
        connection.finish()
        connection.data_received(surplus)
        assert transport.aborted
        assert not connection.usable
        return
    try:
        await connection.message()
        connection.finish()
    except Broken:
        assert transport.aborted
    assert not connection.usable


async def test_half_an_answer_that_nobody_asked_for_is_no_part_of_the_next() -> None:
    connection, _ = new_connection()
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Wrong: 1\r\nX-Other: "
    )
    await connection.message()
    connection.finish()
    connection.begin("GET", b"head")
    connection.data_received(b"HTTP/1.1 404 No\r\nX-Right: 1\r\nContent-Length: 0\r\n\r\n")
    message, _ = await connection.message()
    assert message.code == 404
    assert [name for name, _ in message.raw_headers] == [b"X-Right", b"Content-Length"]


async def test_a_body_that_ends_by_close_is_whole() -> None:
    connection, _ = new_connection()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhello")
    _, body = await connection.message()
    connection.connection_lost(None)
    assert await body.read() == b"hello"
    assert not connection.usable


@pytest.mark.parametrize("lost", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_short_is_broken(lost: Exception | None, framing: bytes) -> None:
    connection, _ = new_connection()
    connection.data_received(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\n")
    _, body = await connection.message()
    connection.connection_lost(lost)
    with pytest.raises(Broken):
        await body.read()


async def test_a_body_that_ends_by_close_is_broken_when_we_ended_it() -> None:
    connection, transport = new_connection()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhello")
    _, body = await connection.message()
    connection.abort()
    connection.connection_lost(None)
    assert transport.aborted
    with pytest.raises(Broken):
        await body.read()


async def test_a_reader_that_a_chunk_just_woke_still_learns_that_the_body_broke() -> None:
    connection, _ = new_connection()
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf")
    _, body = await connection.message()
    assert await body.readany() == b"half"
    reading = asyncio.create_task(body.readany())
    await asyncio.sleep(0)
    connection.data_received(b"\r\nzz\r\n")
    with pytest.raises(Broken):
        await asyncio.wait_for(reading, 1)


@pytest.mark.parametrize("lost", [None, OSError("gone")])
async def test_whoever_waits_for_an_answer_learns_of_the_end(lost: Exception | None) -> None:
    ended: list[Connection] = []
    connection = Connection(asyncio.get_running_loop(), ended.append)
    connection.connection_made(Recorded())
    connection.begin("GET", b"head")
    waiting = asyncio.create_task(connection.message())
    await asyncio.sleep(0)
    connection.connection_lost(lost)
    with pytest.raises(Broken):
        await waiting
    assert ended == [connection]
    with pytest.raises(Broken):
        connection.begin("GET", b"head")


@pytest.mark.parametrize(
    "octets", [b"SSH-2.0\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"]
)
async def test_what_is_no_answer_to_us_ends_the_connection(octets: bytes) -> None:
    connection, transport = new_connection()
    connection.data_received(octets)
    with pytest.raises(Broken):
        while (await connection.message())[0].code == 101:
            pass
    assert transport.aborted


async def test_an_answer_that_nobody_reads_holds_the_homeserver_back() -> None:
    connection, transport = new_connection()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    _, body = await connection.message()
    for _ in range(4):
        if not transport.paused:
            connection.data_received(b"x" * READ_LIMIT)
    assert transport.paused
    assert len(await body.readany()) <= 3 * READ_LIMIT
    assert not transport.paused


async def test_only_a_kept_connection_that_said_nothing_is_stale() -> None:
    connection, _ = new_connection()
    seen = [connection.stale]
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await connection.message()
    connection.finish()
    connection.begin("GET", b"head")
    seen.append(connection.stale)
    connection.data_received(b"H")
    seen.append(connection.stale)
    assert seen == [False, True, False]
