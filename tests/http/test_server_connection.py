"""A connection of a client: requests come one at a time, answers go out in their order, and each end is told."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.http.body import LAST_CHUNK, READ_LIMIT, BodyBroken, chunk
from gateway.http.states import CLOSED, DRAINING, HEAD, IDLE, REQUEST
from tests.http.by_hand import ANSWER, GET, Asked, ByHand, served
from tests.raw_http import connected
from tests.waiting import until
from tests.web.whole_answers import END, Received, wired

ONE_READ = 2**18  # the most that a loop reads at once
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def at_once(asked: Asked) -> None:
    asked.answer()


# One request at a time.


async def test_of_requests_that_come_at_once_each_begins_when_the_one_before_is_answered() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET * 3)
        for number in (1, 2, 3):
            asked = await site.application.next(number)
            await asyncio.sleep(0.01)
            assert len(site.application.asked) == number
            assert asked.connection.takes_more
            asked.answer()
            assert await client.answer() == ANSWER
        connection = await site.connection()
        assert connection.state is IDLE
        assert connection.at_rest


SEQUENCE = (
    (POST % 5 + b"hello", b"hello"),
    (GET, b""),
    (CHUNKED + b"3\r\n\r\n\r\r\n0\r\nA: b\r\n\r\n", b"\r\n\r"),
    (POST % 0, b""),
    (CHUNKED + b"0\r\n\r\n", b""),
    (POST % len(GET) + GET, GET),
)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
async def test_each_request_has_its_own_body_whatever_the_reads(size: int) -> None:
    octets = b"".join(request for request, _ in SEQUENCE)
    async with served() as site, connected(site.port) as client:
        answering = asyncio.ensure_future(answer_all(site.application, len(SEQUENCE)))
        for start in range(0, len(octets), size):
            await client.send(octets[start : start + size])
            await asyncio.sleep(0)
        bodies = await answering
        for _ in SEQUENCE:
            assert await client.answer() == ANSWER

    assert bodies == [body for _, body in SEQUENCE]


async def answer_all(application: ByHand, count: int) -> Sequence[bytes]:
    bodies = []
    for number in range(1, count + 1):
        asked = await application.next(number)
        bodies.append(await asked.body())
        asked.answer()
    return bodies


async def test_a_request_begins_with_its_head_and_its_body_comes_later() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(POST % 5)
        asked = await site.application.next()
        assert not asked.body_is_there()
        await client.send(b"he")
        assert await asked.request.body.read() == b"he"
        await client.send(b"llo" + GET)
        assert await asked.request.body.read() == b"llo"
        assert asked.body_is_there()
        asked.answer()
        await site.application.next(2)


async def test_many_requests_at_once_are_answered_at_once_without_depth() -> None:
    """An application that answers in `handle` makes no call within a call."""
    async with served(ByHand(at_once)) as site, connected(site.port) as client:
        await client.send(GET * 3000)
        for _ in range(3000):
            assert await client.answer() == ANSWER


async def test_a_head_may_begin_behind_a_request_and_end_later() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET + GET[:10])
        (await site.application.next()).answer()
        connection = await site.connection()
        await until(lambda: connection.state is HEAD)
        assert not connection.at_rest
        await client.send(GET[10:])
        (await site.application.next(2)).answer()
        assert await client.answer() == await client.answer() == ANSWER


async def test_empty_lines_between_requests_begin_none() -> None:
    """RFC 9112 2.2."""
    async with served(ByHand(at_once)) as site, connected(site.port) as client:
        await client.send(b"\r\n" + GET + b"\r\n\r\n")
        await client.answer()
        await asyncio.sleep(0.02)
        connection = await site.connection()
        assert connection.at_rest
        await client.send(b"\r\n" + GET)
        assert await client.answer() == ANSWER


# What waits.


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_that_nobody_takes_holds_its_client_back(framing: str) -> None:
    data = bytes(10) * 10**6
    octets = (
        POST % len(data) + data if framing == "length" else CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    )
    async with served() as site, connected(site.port) as client:
        sending = asyncio.ensure_future(client.send(octets))
        asked = await site.application.next()
        await until(lambda: not asked.connection.transport.is_reading())
        await asyncio.sleep(0.05)
        assert READ_LIMIT < asked.request.body.waiting <= READ_LIMIT + ONE_READ
        assert await asked.body() == data
        await sending
        asked.answer()
        assert await client.answer() == ANSWER


@pytest.mark.parametrize("half_closed", [False, True])
async def test_what_waits_behind_a_request_holds_its_client_back(*, half_closed: bool) -> None:
    count = 4_000  # of more octets than are held
    async with served() as site, connected(site.port) as client:
        client.writer.write(GET * count)
        if half_closed:
            client.writer.write_eof()
        first = await site.application.next()
        await until(lambda: not first.connection.transport.is_reading())
        await asyncio.sleep(0.05)
        site.application.at_once = at_once
        first.answer()
        for _ in range(count):
            assert await client.reader.readexactly(len(ANSWER)) == ANSWER
        assert len(site.application.asked) == count


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_after_a_large_body_that_came_and_nobody_took_the_next_request_is_read(framing: str) -> None:
    """An answer of ours may come before anybody looked at the body, such as a 502 when the homeserver is down."""
    data = bytes(READ_LIMIT + 1)
    async with served() as site, connected(site.port) as client:
        for number in (1, 2, 3):
            await client.send(POST % len(data) if framing == "length" else CHUNKED)
            asked = await site.application.next(number)
            await client.send(data if framing == "length" else chunk(data) + LAST_CHUNK)
            await until(asked.body_is_there)
            asked.answer()
            assert await asyncio.wait_for(client.answer(), 5) == ANSWER


# Ends.


async def test_a_client_that_sends_no_more_gets_the_answer_to_what_it_asked() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET + POST % 2 + b"ab")
        client.writer.write_eof()
        (await site.application.next()).answer()
        (await site.application.next(2)).answer()
        assert await client.rest() == ANSWER * 2
        await site.empty()


async def test_a_client_that_sends_no_more_and_waits_too_long_is_taken_for_gone() -> None:
    """A hanging /sync must not stay at the homeserver."""
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        client.writer.write_eof()
        asked = await site.application.next()
        assert await client.rest() == b""
        assert asked.work.said == ["cancel"]
        await site.empty()


async def test_an_answer_that_has_begun_is_not_ended_because_its_client_sends_no_more() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        client.writer.write_eof()
        asked = await site.application.next()
        asked.connection.start_answer(asked.request, ANSWER[:-1], framed=True)
        await asyncio.sleep(1.2)
        asked.answer(ANSWER[-1:])
        assert await client.rest() == ANSWER
        assert asked.work.said == []


@pytest.mark.parametrize("octets", [b"", b"\r\n", GET[:-1], GET[:1]])
async def test_a_client_that_sends_no_more_before_its_request_was_whole_asked_nothing(octets: bytes) -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(octets)
        await site.connection()
        client.writer.write_eof()
        assert await asyncio.wait_for(client.rest(), 0.4) == b""
        await site.empty()
        assert site.application.asked == []


@pytest.mark.parametrize("octets", [POST % 5 + b"hell", CHUNKED + b"1\r\na\r\n0\r\n"])
async def test_a_client_that_sends_no_more_before_its_body_was_whole_has_gone(octets: bytes) -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(octets)
        asked = await site.application.next()
        client.writer.write_eof()
        assert await asyncio.wait_for(client.rest(), 0.4) == b""
        assert asked.work.said == ["cancel"]
        assert isinstance(asked.request.body.error, BodyBroken)


async def test_a_head_that_has_begun_behind_a_request_is_given_up_with_its_client() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET + GET[:10])
        client.writer.write_eof()
        (await site.application.next()).answer()
        assert await asyncio.wait_for(client.rest(), 1) == ANSWER
        await site.empty()


async def test_a_client_that_leaves_ends_the_work_on_its_request_alone() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET + GET)
        asked = await site.application.next()
        client.reset()
        await site.empty()
        assert asked.work.said == ["cancel"]
        asked.connection.write(b"too late")
        asked.answer()
        assert len(site.application.asked) == 1


async def test_a_client_that_leaves_after_its_answer_ends_nothing() -> None:
    async with served(ByHand(at_once)) as site, connected(site.port) as client:
        await client.send(GET)
        await client.answer()
        client.reset()
        await site.empty()
        assert site.application.asked[0].work.said == []


@pytest.mark.parametrize("waits", ["a body", "requests"])
async def test_a_client_that_is_held_back_is_seen_to_break_off(waits: str) -> None:
    async with served() as site, connected(site.port) as client:
        client.writer.write(POST % 10**7 + bytes(10**6) if waits == "a body" else GET * 30_000)
        asked = await site.application.next()
        await until(lambda: not asked.connection.transport.is_reading())
        client.reset()
        await site.empty(3)
        assert asked.work.said == ["cancel"]


async def test_a_client_that_is_held_back_is_seen_to_leave() -> None:
    """Of one in the midst of a body it can't be told: the rest may be on its way."""
    async with served() as site, connected(site.port) as client:
        await client.send(GET * 4_000)
        asked = await site.application.next()
        await until(lambda: not asked.connection.transport.is_reading())
        client.writer.close()
        await site.empty(3)
        assert asked.work.said == ["cancel"]


async def test_a_client_that_is_held_back_and_sends_no_more_gets_its_answer() -> None:
    data = bytes(3 * 10**6)
    async with served() as site, connected(site.port) as client:
        client.writer.write(POST % len(data) + data)
        client.writer.write_eof()
        asked = await site.application.next()
        await until(lambda: not asked.connection.transport.is_reading())
        await asyncio.sleep(1.2)  # in which it is seen
        assert await asked.body() == data
        asked.answer()
        assert await client.rest() == ANSWER


# Answers.


async def test_an_answer_that_ends_the_connection_is_the_last() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET + GET)
        (await site.application.next()).answer(keep_alive=False)
        assert await client.rest() == ANSWER
        client.writer.close()
        await site.empty()
        assert len(site.application.asked) == 1


async def test_an_answer_before_the_body_reaches_a_client_that_goes_on_sending() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(POST % 10**7)
        asked = await site.application.next()
        asked.answer(keep_alive=False)
        assert asked.connection.state is DRAINING
        for _ in range(10):
            await client.send(bytes(10**6))
        assert await client.rest() == ANSWER
        await site.empty()
        assert asked.work.said == []


async def test_an_answer_before_a_body_that_is_held_back_takes_the_rest_of_it() -> None:
    async with served() as site, connected(site.port) as client:
        sending = asyncio.ensure_future(client.send(POST % 10**7 + bytes(10**7)))
        asked = await site.application.next()
        await until(lambda: not asked.connection.transport.is_reading())
        asked.answer(keep_alive=False)
        await sending
        assert await client.rest() == ANSWER


@pytest.mark.parametrize("whole", [False, True])
async def test_who_sends_much_behind_a_request_with_the_last_answer_has_that_answer(*, whole: bool) -> None:
    """A connection closed with octets unread is reset, and the system forgets what was still to be sent."""
    large = b"HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n" + bytes(3 * 10**6)
    async with served() as site, wired(site.port, receive_buffer=8192) as client:
        body = bytes(100_000)
        await client.send(POST % len(body) + (body + GET if whole else b""))
        asked = await site.application.next()
        if whole:
            await until(asked.body_is_there)
        asked.answer(large, keep_alive=False)
        sending = asyncio.ensure_future(client.send((b"" if whole else body) + GET * 50_000))
        received = bytearray()
        while piece := (await client.receive_some()):
            received += piece
            await asyncio.sleep(0.0005)
        assert (len(received), bytes(received[:12])) == (len(large), large[:12])
        sending.cancel()
        assert len(site.application.asked) == 1


@pytest.mark.parametrize("behind", [False, True])
async def test_who_sends_on_after_a_chunk_that_is_none_has_its_answer(*, behind: bool) -> None:
    """Closed while more comes, the connection would be reset, and many a system forgets what it did not read yet."""
    async with served() as site, wired(site.port) as client:
        await client.send(CHUNKED if behind else CHUNKED + b"zz\r\n")
        asked = await site.application.next()
        asked.answer(keep_alive=False)
        if behind:
            await client.send(b"zz\r\n")
        for _ in range(5):
            await client.send(GET)
            await asyncio.sleep(0.01)
        assert await client.receive(1) == Received(ANSWER, END)
        assert site.has(1)
        client.socket.close()
        await site.empty(1)
        assert len(site.application.asked) == 1


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (POST % 5 + b"x" * 5 + b"\x16\x03", 400),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_what_can_not_be_read_is_answered_and_what_follows_dropped(octets: bytes, status: int) -> None:
    async with served(ByHand(at_once)) as site, connected(site.port) as client:
        await client.send(octets + GET)
        await until(lambda: site.application.unread)
        await client.send(GET * 10)
        rest = await client.rest()
        assert rest.endswith(b"HTTP/1.1 %d Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
        assert [each for each, _ in site.application.unread] == [status]
        assert len(site.application.asked) == octets.startswith(b"POST")


@pytest.mark.parametrize("fields", [b"Transfer-Encoding: gzip", b"Content-Length: " + b"9" * 19])
async def test_a_request_whose_end_can_not_be_told_is_a_400(fields: bytes) -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n\r\n" + GET)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        assert site.application.asked == []


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\nab\r\n"])
async def test_chunks_that_are_none_break_the_request(body: bytes) -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(CHUNKED)
        asked = await site.application.next()
        await client.send(body + GET)
        await until(lambda: asked.request.body.error)
        asked.answer(keep_alive=False)
        assert await client.rest() == ANSWER
        client.writer.close()
        await site.empty()
        assert len(site.application.asked) == 1


async def test_an_answer_that_is_not_taken_holds_back_itself_and_the_next_request() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + bytes(5 * 10**7)
    async with served() as site, connected(site.port) as client:
        await client.send(GET + GET)
        asked = await site.application.next()
        told = []
        asked.request.writable = lambda: told.append("writable")
        asked.connection.start_answer(asked.request, large[:25000000], framed=True)
        await until(lambda: not asked.connection.writable)
        await client.reader.readexactly(25000000)
        await until(lambda: told == ["writable"])
        asked.answer(large[25000000:])
        assert asked.connection.state is DRAINING
        await asyncio.sleep(0.05)
        assert len(site.application.asked) == 1
        await client.reader.readexactly(len(large) - 25000000)
        (await site.application.next(2)).answer()
        assert await client.answer() == ANSWER


async def test_a_client_may_send_its_next_request_while_it_still_takes_an_answer() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + bytes(3 * 10**7)
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        asked = await site.application.next()
        asked.answer(large)
        assert asked.connection.state is DRAINING
        await client.send(GET)
        await asyncio.sleep(0.05)
        assert len(site.application.asked) == 1
        await client.reader.readexactly(len(large))
        (await site.application.next(2)).answer()
        assert await client.answer() == ANSWER


async def test_a_large_last_answer_is_sent_whole_before_the_end() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(10**7)
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        (await site.application.next()).answer(large, keep_alive=False)
        assert len(await client.rest()) == len(large)


@pytest.mark.parametrize("step", ["changed", "writable"])
async def test_a_fault_in_a_step_is_told_to_the_work_on_its_request(step: str) -> None:
    def fault() -> None:
        raise ValueError("a fault of ours")

    async with served() as site, connected(site.port) as client:
        await client.send(POST % 5)
        asked = await site.application.next()
        if step == "changed":
            asked.request.body.changed = fault
            await client.send(b"x")
        else:
            asked.request.writable = fault
            asked.connection.start_answer(asked.request, bytes(10**7), framed=True)
            await until(lambda: not asked.connection.writable)
            await client.reader.readexactly(10**7)
        await until(lambda: asked.work.said)
        assert asked.work.said == ["a fault of ours"]


async def test_a_fault_of_which_nobody_can_be_told_is_the_loops() -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context.get("exception")))

    def fault() -> None:
        raise ValueError("a fault of ours")

    async with served() as site, connected(site.port) as client:
        await client.send(POST % 5)
        asked = await site.application.next()
        asked.request.work = None
        asked.request.body.changed = fault
        await client.send(b"x")
        await site.empty()
    assert {str(each) for each in faults} == {"a fault of ours"}


@pytest.mark.parametrize(("begun", "framed"), [(True, True), (True, False), (False, False)])
async def test_an_answer_that_is_broken_off_does_not_look_whole(*, begun: bool, framed: bool) -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        asked = await site.application.next()
        if begun:
            asked.connection.start_answer(asked.request, b"HTTP/1.1 200 OK\r\n\r\nhalf", framed=framed)
            assert await client.reader.readexactly(23) == b"HTTP/1.1 200 OK\r\n\r\nhalf"
        asked.connection.break_off()
        if begun and not framed:
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            assert await client.rest() == b""
        await site.empty()
        assert asked.connection.state is CLOSED


async def test_an_end_is_an_end_also_when_it_is_asked_for_twice() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        asked = await site.application.next()
        asked.connection.close()
        asked.connection.close()
        asked.connection.data_received(GET)
        assert await client.rest() == b""
        await site.empty()
        asked.connection.data_received(GET)
        assert len(site.application.asked) == 1


async def test_a_connection_that_takes_its_last_request_says_so() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        asked = await site.application.next()
        connection, seen = asked.connection, [asked.connection.takes_more]
        connection.is_last = True
        seen.append(connection.takes_more)
        assert seen == [True, False]
        await client.send(GET)
        await until(lambda: connection.takes_more)  # it came already
        assert not asked.connection.at_rest
        assert asked.connection.state is REQUEST
