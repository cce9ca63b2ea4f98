"""A server's connections have their time and their number, and what waits for an answer has any time it takes."""

import asyncio
import socket
from dataclasses import replace
from functools import partial
from typing import cast

import pytest

from gateway.http import server as module
from gateway.http.server_connection import ServerConnection
from gateway.http.states import CLOSED, HEAD, IDLE
from tests.http.by_hand import ANSWER, GET, LIMITS, Asked, ByHand, Site, served
from tests.raw_http import RawClient, connected
from tests.waiting import until

POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
SHORT, LONG = 0.2, 3.0


def at_once(asked: Asked) -> None:
    asked.answer()


async def took(waited: asyncio.Future[bytes] | asyncio.Task[bytes]) -> tuple[bytes, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await asyncio.wait_for(waited, LONG), loop.time() - began


def take_no_more(client: RawClient) -> None:
    cast("asyncio.Transport", client.writer.transport).pause_reading()


# Time.


@pytest.mark.parametrize("octets", [b"", b"\r\n", GET])
async def test_a_connection_that_is_idle_too_long_is_closed(octets: bytes) -> None:
    async with served(ByHand(at_once), keepalive_timeout=SHORT) as site, connected(site.port) as client:
        await client.send(octets)
        if octets == GET:
            await client.answer()
        rest, seconds = await took(asyncio.ensure_future(client.rest()))
        assert rest == b""
        assert SHORT * 0.9 < seconds < SHORT * 3
        await site.empty()


async def test_a_head_that_takes_too_long_is_a_408_however_it_drips() -> None:
    async with served(head_timeout=SHORT) as site, connected(site.port) as client:
        reading = asyncio.ensure_future(client.rest())
        for octet in GET[:-1]:
            if not reading.done():
                client.writer.write(bytes([octet]))
                await asyncio.sleep(0.03)
        assert (await reading).startswith(b"HTTP/1.1 408 ")
        assert site.application.unread[0][0] == 408


async def test_a_body_that_does_not_move_is_told_to_its_work() -> None:
    async with served(stall_timeout=SHORT) as site, connected(site.port) as client:
        await client.send(POST % 5 + b"a")
        asked = await site.application.next()
        for octet in (b"b", b"c"):
            await asyncio.sleep(SHORT * 0.6)
            await client.send(octet)
        assert asked.work.said == []
        await until(lambda: asked.work.said)
        assert asked.work.said[0] == "stall"


async def test_a_body_that_is_held_back_and_not_taken_is_told_to_its_work() -> None:
    async with served(stall_timeout=SHORT) as site, connected(site.port) as client:
        client.writer.write(POST % 10**7 + bytes(10**7))
        asked = await site.application.next()
        await until(lambda: asked.work.said)
        assert asked.work.said[0] == "stall"
        client.reset()


async def test_a_request_that_waits_for_its_answer_waits_for_ever() -> None:
    async with (
        served(stall_timeout=SHORT, keepalive_timeout=SHORT, head_timeout=SHORT) as site,
        connected(site.port) as client,
    ):
        await client.send(GET)
        asked = await site.application.next()
        await asyncio.sleep(SHORT * 5)
        assert asked.work.said == []
        asked.answer()
        assert await client.answer() == ANSWER


async def test_an_answer_that_nobody_takes_is_told_to_its_work_and_ended() -> None:
    async with served(stall_timeout=SHORT) as site, connected(site.port) as client:
        take_no_more(client)
        await client.send(GET)
        asked = await site.application.next()
        asked.connection.start_answer(asked.request, bytes(3 * 10**7), framed=True)
        await until(lambda: asked.work.said)
        assert asked.work.said[0] == "stall"
        asked.connection.break_off()
        await site.empty()  # what is unsent does not hold it


async def test_a_whole_answer_that_nobody_takes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINGERING", SHORT)
    async with served(stall_timeout=SHORT) as site, connected(site.port) as client:
        take_no_more(client)
        await client.send(GET)
        (await site.application.next()).answer(bytes(3 * 10**7))
        await site.empty()


async def test_an_answer_that_is_taken_slowly_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINGERING", SHORT)
    async with served(stall_timeout=SHORT) as site, connected(site.port) as client:
        await client.send(GET)
        (await site.application.next()).answer(bytes(3 * 10**7), keep_alive=False)
        for _ in range(12):
            await client.reader.readexactly(2 * 10**6)
            await asyncio.sleep(SHORT / 2)
        assert len(await client.rest()) == 6 * 10**6


@pytest.mark.parametrize("octets", [b"get\r\n\r\n", POST % 10**6])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_the_rest_of_a_body_that_nobody_wants_has_its_time(
    octets: bytes, monkeypatch: pytest.MonkeyPatch, *, goes_on: bool
) -> None:
    """Also of one that drips: a client could hold its connection with an octet now and then."""
    monkeypatch.setattr(module, "_LINGERING", SHORT * 2)

    def last(asked: Asked) -> None:
        asked.answer(keep_alive=False)

    async with served(ByHand(last), stall_timeout=SHORT) as site, connected(site.port) as client:
        await client.send(octets)
        assert (await client.head()).startswith(b"HTTP/1.1 ")
        for _ in range(20):
            if site.server.connections and goes_on:
                client.writer.write(b"x")
            await asyncio.sleep(SHORT / 2)
        assert not site.server.connections


async def test_what_is_unsent_to_a_client_that_has_half_closed_does_not_hold_its_connection() -> None:
    """The request behind it is not answered yet, and nobody takes the answer before it."""
    async with served(stall_timeout=SHORT) as site:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", site.port))
            connection = await site.connection()
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await loop.sock_sendall(client, GET + GET)
            (await site.application.next()).answer(bytes(60_000))
            asked = await site.application.next(2)
            assert 0 < connection.transport.get_write_buffer_size() < 2**16
            client.shutdown(socket.SHUT_WR)
            await until(lambda: connection.state is CLOSED)
            await site.empty(LONG)
            assert asked.work.said == ["cancel"]


async def test_other_limits_are_those_of_the_next_head() -> None:
    async with served(ByHand(at_once)) as site, connected(site.port) as old, connected(site.port) as new:
        await old.send(GET[:20])
        await until(lambda: any(each.state is HEAD for each in site.server.connections))
        head = replace(LIMITS.head, fields=1)
        other = ByHand(at_once)
        site.server.use(other, replace(LIMITS, head=head))
        await old.send(GET[20:] + GET[:-2] + b"A: b\r\n\r\n")
        assert await old.answer() == ANSWER
        assert (await old.rest()).startswith(b"HTTP/1.1 431 ")
        await new.send(GET)
        assert await new.answer() == ANSWER
        assert (len(site.application.asked), len(other.asked)) == (0, 2)


# Number.


async def test_an_address_has_as_many_connections_as_it_may_and_more_when_some_have_ended() -> None:
    async with served(ByHand(at_once), per_address=2) as site:
        async with connected(site.port) as one, connected(site.port) as two:
            for client in (one, two):
                await client.send(GET)
                await client.answer()
            async with connected(site.port) as third:
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await third.send(GET)
                    await third.answer()
            await one.send(GET)
            assert await one.answer() == ANSWER
        await site.empty()
        async with connected(site.port) as client:
            await client.send(GET)
            assert await client.answer() == ANSWER


async def test_those_that_are_idle_longest_are_given_up_first_and_none_at_work() -> None:
    async with served() as site:
        async with connected(site.port) as busy, connected(site.port) as begun:
            await busy.send(GET)
            await begun.send(GET[:9])
            await until(lambda: site.server.at_work == 2)
            known, idle = set(site.server.connections), list[ServerConnection]()
            writers = []
            for number in (1, 2, 3):
                writers.append((await asyncio.open_connection("127.0.0.1", site.port))[1])
                await until(partial(site.has, 2 + number))
                idle += set(site.server.connections) - known - set(idle)
                await asyncio.sleep(0.01)

            assert site.server.close_idle(2) == 2
            await until(lambda: len(site.server.connections) == 3)
            assert idle[2] in site.server.connections
            assert site.server.close_idle(64) == 1
            await until(lambda: len(site.server.connections) == 2)
            assert site.server.close_idle(64) == 0
            (await site.application.next()).answer()
            assert await busy.answer() == ANSWER
            for writer in writers:
                writer.close()


# The end.


async def drained(site: Site, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await site.server.drain(seconds)
    return loop.time() - began


async def test_at_the_end_nobody_is_waited_for_where_nobody_is() -> None:
    async with served() as site:
        assert await drained(site, 5) < 0.5


async def test_at_the_end_a_connection_that_has_rested_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST", 0.1)
    async with served() as site, connected(site.port) as client:
        await site.connection()
        assert await drained(site, 5) < 1
        assert await client.rest() == b""


async def test_at_the_end_a_request_at_work_is_waited_for_and_its_answer_is_the_last() -> None:
    async with served() as site, connected(site.port) as client:
        await client.send(GET)
        asked = await site.application.next()
        draining = asyncio.ensure_future(drained(site, 5))
        await asyncio.sleep(0.1)
        assert not asked.connection.takes_more
        asked.answer(keep_alive=asked.connection.takes_more)
        assert await client.rest() == ANSWER
        assert await draining < 1


async def test_at_the_end_what_takes_too_long_is_told_to_stop_and_its_word_is_sent() -> None:
    async with served() as site, connected(site.port) as client, connected(site.port) as deaf:
        await client.send(GET)
        await deaf.send(GET)
        asked = await site.application.next(2)
        draining = asyncio.ensure_future(drained(site, 0.1))
        await until(lambda: all(each.work.said for each in site.application.asked))
        asked.answer(keep_alive=False)
        seconds = await draining
        assert {each.work.said[0] for each in site.application.asked} == {"stop"}
        assert sorted([await client.rest(), await deaf.rest()]) == [b"", ANSWER]
        assert seconds < LONG
        await site.empty()


async def test_only_the_connections_that_are_meant_end() -> None:
    async with served(ByHand(at_once)) as site, connected(site.port) as goes:
        await goes.send(GET)
        await goes.answer()
        (leaving,) = site.server.connections
        async with connected(site.port) as stays:
            await stays.send(GET)
            await stays.answer()
            await site.server.drain(0.1, lambda connection: connection is leaving)
            assert await goes.rest() == b""
            await stays.send(GET)
            assert await stays.answer() == ANSWER
            assert next(iter(site.server.connections)).state is IDLE
